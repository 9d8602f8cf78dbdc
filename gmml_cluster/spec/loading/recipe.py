"""A method's own optimiser and augmentation, under what a job file says.

The defaults of `optim` and `data.augment` are GMML's. Another method has its authors' values as `recipe`, so that a
file in which only `method.name` changes trains each method as its source does.
"""

from typing import Any

from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.compose import merge
from gmml_cluster.spec.loading.yaml import Tree, plant, walk
from gmml_cluster.spec.methods.registry import recipe_of


def with_recipe(job: Tree) -> Tree:
    """The job laid on the recipe of its method: mappings are merged name by name, all else that is written wins.

    A section that a job must have is filled only where it is there, so that its absence is still found.
    """
    name = walk(job, ("method", "name"))
    if name is None or not isinstance(job.value, dict):
        return job
    sections: dict[str, Any] = {}
    for field, value in recipe_of(name.value).items():
        *path, last = field.split(".")
        if path[0] in job.value or not JobSpec.model_fields[path[0]].is_required():
            _section(sections, path)[last] = value
    return merge(plant(sections, f"the recipe of {name.value}"), job)


def _section(tree: dict[str, Any], path: list[str]) -> dict[str, Any]:
    for name in path:
        tree = tree.setdefault(name, {})
    return tree
