"""Which runs nothing works on any more, though nobody stopped them: what to bring back after a machine rebooted."""

from collections.abc import Sequence
from dataclasses import dataclass

from gmml_cluster.errors import StorageError
from gmml_cluster.launch.runs.status import statuses
from gmml_cluster.run.root import RunRoot


@dataclass(frozen=True)
class Interrupted:
    """The runs to resume on this machine.

    Attributes:
        runs: this machine's, that were interrupted.
        notes: of runs that need a person, a sentence each.
        faults: of runs that could not be read.
    """

    runs: list[RunRoot]
    notes: list[str]
    faults: list[StorageError]


def interrupted(runs: Sequence[RunRoot]) -> Interrupted:
    """The runs whose last submit was to this machine and whose supervisor and ranks are gone before they finished.

    Left alone are runs that a person stopped, and those of schedulers, which several people may see in one root: each
    would submit them. Named, but left alone, are runs that failed, as they would most likely fail again, and copies.
    A job of another machine cannot be asked about from here, so its run never counts as interrupted.
    """
    asked = statuses(runs)
    found = Interrupted([], [], asked.faults)
    by_url = {run.url: run for run in runs}
    for document in asked.documents:
        name, state = document["run"], document["state"]
        if document["launcher"] != "local" or state not in ("interrupted", "failed"):
            continue
        if document["misplaced"]:
            found.notes.append(f"{name}: {document['misplaced']}")
        elif state == "failed":
            found.notes.append(f"{name}: failed before; gmml status {name} says why, gmml resume {name} tries again")
        else:
            found.runs.append(by_url[document["url"]])
    return found
