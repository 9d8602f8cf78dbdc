"""Runs of a sweep on a Ray cluster: so many at work at once, the others' drivers wait and place no ranks.

Ray's list of jobs is the queue: a job's turn has come when fewer than so many of its sweep that were submitted before
it are left. The driver waits by that rule and `gmml status` reports by it; nobody keeps anything.
"""

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import LaunchError
from gmml_cluster.wording import counted

if TYPE_CHECKING:
    from gmml_cluster.launch.protocol import Submission

_ALIVE = ("PENDING", "RUNNING")
_LOOK_S = 5.0

_log = logging.getLogger(__name__)


def metadata_of(submission: "Submission") -> dict[str, str]:
    """What a job's metadata say of its sweep; nothing where no limit was asked for."""
    queue = submission.queue
    if queue is None or queue.parallel is None:
        return {}
    return {"root": submission.root, "sweep": queue.name, "parallel": str(queue.parallel)}


def waits(job: str, listed: Sequence[Any]) -> str | None:
    """What a job waits for, by the cluster's list of jobs; None once its turn has come, or where it has no limit.

    Args:
        job: its submission id.
        listed: all jobs, as Ray's job API lists them.
    """
    mine = next((each for each in listed if each.submission_id == job), None)
    said = (mine.metadata or {}) if mine is not None else {}
    if mine is None or "parallel" not in said:
        return None
    before = [each for each in listed if _is_ahead(each, mine)]
    if len(before) < int(said["parallel"]):
        return None
    return f"waits for its turn: {counted(int(said['parallel']), 'run')} of {said['sweep']} at once"


def _is_ahead(other: Any, mine: Any) -> bool:
    theirs, ours = other.metadata or {}, mine.metadata
    same = all(theirs.get(name) == ours[name] for name in ("root", "sweep"))
    return same and str(other.status.value) in _ALIVE and _order(other) < _order(mine)


def _order(job: Any) -> tuple[int, str]:
    return job.start_time or 0, job.submission_id or ""


def wait_for_turn(job: str, list_jobs: Callable[[], Sequence[Any]]) -> None:
    """Return when the job's turn has come; while the list cannot be read nobody is overtaken.

    Args:
        job: its submission id.
        list_jobs: asks the cluster.
    """
    while True:
        try:
            reason = waits(job, list_jobs())
        except LaunchError as error:
            reason = str(error)
        if reason is None:
            return
        _log.info("%s", reason)
        time.sleep(_LOOK_S)
