"""The run that has a job's name already: whether it is the same run, and what the job changes of it."""

import json
import time
from typing import Any

from gmml_cluster.data.corpus.classes import class_faults
from gmml_cluster.errors import Fault, SpecError, StorageError
from gmml_cluster.launch.checks.indexed import Indexed, miscounted
from gmml_cluster.launch.checks.mask_values import mask_value_faults
from gmml_cluster.run.finding.discovery import is_run
from gmml_cluster.run.history import History
from gmml_cluster.run.root import RUN, RunRoot, run_root
from gmml_cluster.spec.identity import changeable, differences
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import dump
from gmml_cluster.spec.loading.yaml import shown
from gmml_cluster.store.protocol import NotFound

UNDER_WAY_S = 30.0
_LOOK_S = 0.2


def compare(job: JobSpec, root: str, indexed: Indexed) -> tuple[History, tuple[str, ...]]:
    """The history of the run of this name, empty where there is none, and a note where it could not be read.

    Raises:
        SpecError: an index contradicts the job, or a run of this name has another identity.
    """
    faults = [
        *(miscounted(job, indexed.shapes) if indexed.shapes else []),
        *class_faults(job, indexed.held),
        *mask_value_faults(job, root, indexed.held),
    ]
    notes: tuple[str, ...] = ()
    history = History()
    try:
        run = run_root(root, job.name)
        history = opened(run)
        if history.run:
            changes_of(run, dump(job))
    except StorageError as error:
        notes = (f"whether a run has this name already is not known: {str(error).splitlines()[0]}",)
    except SpecError as error:
        faults += error.faults
    if faults:
        raise SpecError(faults)
    return history, notes


def changes_of(run: RunRoot, new: dict[str, Any]) -> dict[str, Any]:
    """Fields outside the identity that differ from the run's spec: name -> [value in spec.yaml, value now].

    Raises:
        SpecError: the run has another identity; lists the fields that differ.
    """
    old = dump(run.job({}))
    differ = differences(old, new)
    if differ:
        raise SpecError([_differs(run, field, *values) for field, values in differ.items()])
    return changeable(old, new)


def _differs(run: RunRoot, field: str, old: Any, new: Any) -> Fault:
    problem = (
        f"{shown(new)}, but the run {run.name!r} under {run.root} was submitted with {shown(old)}; "
        "a run computes what it was submitted with"
    )
    return Fault(field, problem, "set it back or give another name")


def opened(run: RunRoot) -> History:
    """The history of the run of this name; empty where there is none.

    A submission writes `run.json`, then the files, then `open`. One that is between these now is waited for: of several
    first submissions at once, all but the first find the run half made.

    Raises:
        SpecError: something lies there without an `open`, and nobody seems to be writing it.
    """
    while True:
        history = run.log.refresh()
        if history.run or not is_run(run):
            return history
        if not _is_under_way(run):
            problem = "its log does not open; a submission of this name was cut off, or a removal"
            raise SpecError(Fault(run.url, problem, f"gmml rm {run.url} deletes what is left; then submit again"))
        time.sleep(_LOOK_S)


def _is_under_way(run: RunRoot) -> bool:
    """Whether a submission began less than half a minute ago, by its own clock."""
    try:
        begun = float(json.loads(run.store.get(RUN))["time"])
    except (NotFound, ValueError, KeyError, TypeError):
        return False
    return 0 <= time.time() - begun < UNDER_WAY_S
