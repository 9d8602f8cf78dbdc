"""The spec as a run stores it: every field, as it was at submission, and the changes that later submits made."""

import copy
from collections.abc import Mapping
from typing import Any

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import dump, parse_job
from gmml_cluster.spec.loading.yaml import read_yaml


def load_resolved(text: bytes, changed: Mapping[str, Any]) -> JobSpec:
    """The job of a run's `spec.yaml` with the changes of a submit.

    Args:
        changed: dotted field -> [value in `spec.yaml`, value now].

    Raises:
        SpecError: the file is damaged, or it or a change has fields that this version does not know.
    """
    faults: list[Fault] = []
    tree = read_yaml(text.decode(), "spec.yaml", faults)
    if faults:
        raise SpecError(faults)
    return parse_job(apply(dump(parse_job(tree.plain())), changed))


def apply(spec: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    """A dumped spec with changes made in it."""
    made = copy.deepcopy(dict(spec))
    for field, (_, new) in changed.items():
        *path, last = field.split(".")
        section: Any = made
        try:
            for part in path:
                section = section[int(part) if isinstance(section, list) else part]
            section[last] = new
        except (KeyError, IndexError, TypeError, ValueError) as error:
            problem = "a submit of the run changed it, but this version has no such field"
            raise SpecError(Fault(field, problem, "use the version that submitted")) from error
    return made
