"""The spec as a run keeps it: every field written out at submission, and the changes that later submits made."""

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
        place: Any = made
        try:
            for part in path:
                place = place[int(part) if isinstance(place, list) else part]
            place[last] = new
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SpecError(Fault(field, "changed by a submit of the run; there is no such field here")) from error
    return made
