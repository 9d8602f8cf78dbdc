"""Whether ranks still write to a run that nothing should work on any more, before it is deleted under them."""

import logging
import time

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.launch.jobs import JobRef
from gmml_cluster.launch.registry import launchers
from gmml_cluster.run.history import Attempt, History
from gmml_cluster.run.root import RunRoot
from gmml_cluster.store.protocol import Stat

WATCH_S = 35.0
"""A rank that trains uploads metrics and log lines every 30 s."""
_LOOK_S = 1.0

_log = logging.getLogger(__name__)


def refuse_living(run: RunRoot, history: History) -> None:
    """Refuse where processes of the run live, whatever its log and its scheduler say.

    An `end` that the ranks did not write themselves does not prove that they are gone: srun exited with 0 after a kill
    of slurmstepd (SLURM 22.05), the job was COMPLETED, and the rank trained on outside of SLURM.

    Raises:
        SpecError: they live; says where, as far as it is known.
    """
    found = next(filter(None, (launcher.worker(run.root, run.name) for launcher in launchers())), None)
    if found is not None:
        raise SpecError(Fault(run.url, f"{found} still works on it", "wait until it has left, or end it"))
    attempt = history.attempts[-1] if history.attempts else None
    if attempt is None or not _may_live(attempt):
        return
    where = f"attempt {attempt.number} of job {attempt.job}"
    _log.warning("%s wrote no end of its own: watching for %.0f s whether it still writes", where, WATCH_S)
    if _writes(run, attempt):
        problem = f"{where} still writes to it although its job is gone"
        raise SpecError(Fault(run.url, problem, "end its processes on its nodes, then try again"))


def _may_live(attempt: Attempt) -> bool:
    """Whether its ranks did not write its end: it has none, or one that another process wrote, with its proof.

    A job of this machine is known by its lock.
    """
    job = JobRef.of(attempt)
    return (attempt.ended is None or "proof" in attempt.details) and job is not None and job.launcher != "local"


def _writes(run: RunRoot, attempt: Attempt) -> bool:
    before, deadline = _objects(run, attempt), time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(_LOOK_S)
        if _objects(run, attempt) != before:
            return True
    return False


def _objects(run: RunRoot, attempt: Attempt) -> list[Stat]:
    """What the attempt has written: logs, metrics, and checkpoints that may not be committed."""
    saved = [found for found in run.store.list_objects("checkpoints/") if f"-{attempt.number:04d}/" in found.name]
    return [*run.store.list_objects(f"attempts/{attempt.number:04d}/"), *saved]
