"""Reading job files and cluster profiles: all faults at once, each with its file, line and field."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml as pyyaml
from pydantic import BaseModel, ValidationError

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.broken import Broken
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.compose import EXTENDS, compose, merge
from gmml_cluster.spec.loading.messages import Finding, findings, in_order, where
from gmml_cluster.spec.loading.recipe import with_recipe
from gmml_cluster.spec.loading.yaml import Path as FieldPath
from gmml_cluster.spec.loading.yaml import Tree, at_field, is_word, plant, refused_paths
from gmml_cluster.spec.packaged import packaged
from gmml_cluster.spec.rules import broken_rules

M = TypeVar("M", bound=BaseModel)
Rules = Callable[[Any], list[Broken]]
_STAND_IN: dict[str, Any] = {
    "name": "x",
    "model": {"width": 720720, "depth": 1, "heads": 1, "patch_size": 1},
    "method": {"name": "mae"},
    "data": {"corpora": [{"url": "x"}]},
    "batch": {"size": 1},
    "run": {"steps": 1},
}
"""Replaces the values of a job that are at fault, so that its other values can be checked against the rules."""


def load_job(path: str | Path, overrides: Sequence[str] = ()) -> JobSpec:
    """The job that a file describes; what it leaves out is the method's recipe, else the field's default.

    Args:
        path: the file, or the name of a job of the package; what it extends is relative to it.
        overrides: `a.b=value` each, laid on top; the value is YAML.

    Raises:
        SpecError: all faults of the files and overrides.
    """
    return read_job(path, overrides)[0]


def load_profile(name_or_path: str | Path) -> ClusterProfile:
    """The cluster profile of a name or file: NAME is ./clusters/NAME.yaml, else the one that comes with the package.

    Raises:
        SpecError: there is none, or all faults of its file.
    """
    return read_profile(name_or_path)[0]


def read_job(path: str | Path, overrides: Sequence[str] = ()) -> tuple[JobSpec, Tree]:
    """What `load_job` gives, and the tree that says where each field was written."""
    faults: list[Fault] = []
    tree = with_recipe(compose(job_path(str(path)), overrides, faults))
    return _checked(JobSpec, tree, faults, broken_rules), tree


def read_profile(name_or_path: str | Path) -> tuple[ClusterProfile, Tree]:
    """What `load_profile` gives, and the tree that says where each field was written."""
    faults: list[Fault] = []
    tree = compose(profile_path(str(name_or_path)), (), faults)
    return _checked(ClusterProfile, tree, faults, lambda profile: []), tree


def parse_job(given: Mapping[str, Any]) -> JobSpec:
    """The job of a mapping, such as `dump` makes; what is not given has the fields' own defaults, no method's recipe.

    Raises:
        SpecError: all its faults.
    """
    return _checked(JobSpec, plant(given, "spec"), [], broken_rules)


def dump(spec: BaseModel) -> dict[str, Any]:
    """The spec with every field, ready for JSON; `parse_job` reads a job back as it was."""
    return spec.model_dump(mode="json")


def to_yaml(spec: BaseModel) -> str:
    """The spec with every field as YAML; `load_job` and `load_profile` read it back as it was."""
    return str(pyyaml.dump(dump(spec), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


def job_path(name: str) -> Path:
    """The file that a job is named by: itself, or the job of this name that comes with the package.

    Raises:
        SpecError: there is neither; the package's jobs are listed.
    """
    if os.path.lexists(name) or not re.fullmatch(r"[\w-]+", name):
        return Path(name)
    known = {file.stem: file for folder in packaged("jobs") for file in sorted(folder.glob("*.yaml"))}
    if name in known:
        return known[name]
    hint = f"name a file, such as {name}.yaml, or a job of the package: {', '.join(known)}"
    raise SpecError(Fault(name, "neither a file nor a job of the package", hint))


def profile_path(name: str) -> Path:
    """The file that a profile's name stands for.

    Raises:
        SpecError: no profile has the name; those that there are are listed.
    """
    if "/" in name or name.endswith((".yaml", ".yml")):
        return Path(name)
    folders = [Path("clusters"), *packaged("clusters")]
    for folder in folders:
        if os.path.isfile(folder / f"{name}.yaml"):  # Path.is_file raises for a name that is too long
            return folder / f"{name}.yaml"
    known = ", ".join(sorted({file.stem for folder in folders for file in folder.glob("*.yaml")}))
    raise SpecError(Fault("--cluster", f"{name!r} is no profile", f"known are {known}; name one of them or a file"))


def _checked(model: type[M], tree: Tree, faults: list[Fault], rules: Rules) -> M:
    """The validated model. Cross-field rules also run on the valid parts, so that all errors appear together.

    If a base could not be read, a missing field may be in it, and no rule can be checked.
    """
    is_partial = EXTENDS in tree.value
    tree = _without(tree, (EXTENDS,))
    spec, wrong = _validated(model, tree)
    if is_partial:
        wrong = [finding for finding in wrong if not finding.is_missing]
    refused = set(refused_paths(tree))
    # What a refused tag or number leaves is no second fault, neither at its field nor in a rule of its section.
    wrong = [each for each in wrong if not any(path[: len(each.path)] == each.path for path in refused)]
    checked = (
        spec
        if spec is not None or is_partial
        else _with_stand_ins(model, tree, [*refused, *(finding.path for finding in wrong)])
    )
    doubtful = refused | {path for finding in wrong for path in (finding.path, finding.near) if path}
    broken = [each for each in rules(checked) if not each.touches(doubtful)] if checked is not None else []
    faults = [
        *faults,
        *(finding.fault for finding in wrong),
        *(Fault(at_field(where(tree, each.field), each.field), each.problem, each.hint) for each in broken),
    ]
    if faults or spec is None:
        raise SpecError(in_order(faults))
    return spec


def _with_stand_ins(model: type[M], tree: Tree, wrong: Sequence[FieldPath]) -> M | None:
    """The spec with stand-ins for the fields at fault; None where that is not enough."""
    for path in wrong:
        tree = _without(tree, path)
    return _validated(model, merge(plant(_STAND_IN, "spec"), tree))[0]


def _validated(model: type[M], tree: Tree) -> tuple[M | None, list[Finding]]:
    try:
        return model.model_validate(tree.plain(), strict=True), []
    except ValidationError as error:
        return None, findings(error.errors(), model, tree)


def _without(tree: Tree, path: FieldPath) -> Tree:
    """The tree without the field at a path, if it is there."""
    inside = tree.value
    if not path or not isinstance(inside, dict) or path[0] not in inside:
        return tree
    name = str(path[0])
    if len(path) == 1 or not isinstance(inside[name].value, dict):
        return Tree({key: child for key, child in inside.items() if key != name}, tree.where)
    return Tree({**inside, name: _without(inside[name], path[1:])}, tree.where)


class _Dumper(pyyaml.SafeDumper):
    """Quotes strings that the core schema would read as something else."""

    def represent_word(self, word: str) -> pyyaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", word, style=None if is_word(word) else "'")


_Dumper.add_representer(str, _Dumper.represent_word)
