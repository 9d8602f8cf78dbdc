"""How a person ends a run: `cancel` lets it save and stop, `remove` deletes it once nothing works on it."""

import getpass
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.launch.jobs import Jobs, is_busy, is_idle, launcher_of, poll
from gmml_cluster.launch.local.lock import forget
from gmml_cluster.launch.slurm.logs import folder_of
from gmml_cluster.run import protocol
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import jobs_of, living, pending, state
from gmml_cluster.run.root import RunRoot, remove_run


def cancel(run: RunRoot) -> str:
    """Append `stop` and tell the job, so that its attempt commits once more and ends; may be repeated.

    Returns:
        What was done, for people.

    Raises:
        LaunchError: the scheduler is out of reach; the attempt learns of the stop from the log, a queued job does not.
    """
    history = run.log.refresh()
    if history.finished:
        return "has finished already; nothing was done"
    jobs = poll({run.name: history})
    left = [job for job in jobs_of(history) if jobs[job] != "gone"]
    if history.stopped is not None and not left:
        return f"was stopped already ({history.stopped}); nothing was done"
    protocol.stop(run.log, f"cancelled by {getpass.getuser()}")
    if not left:
        return f"stopped; no job of it is queued or runs; gmml resume {run.name} goes on"
    history = run.log.refresh()  # a queued job may have claimed before the stop, though not after it
    jobs = poll({run.name: history})
    told = ", ".join(_tell(job, history, jobs) for job in left)
    return f"stopping; {told}; once it is stopped, gmml resume {run.name} goes on from there"


def _tell(job: str, history: History, jobs: Jobs) -> str:
    """A job that is cancelled must leave at once; one whose attempt lives is given notice and the time for a save."""
    alive = living(history, jobs)
    if alive is not None and alive.job == job:
        launcher_of(job).notify(job)
        return f"job {job} saves and leaves"
    launcher_of(job).cancel(job)
    return f"job {job} is cancelled"


def remove(run: RunRoot) -> None:
    """Delete a run, and what this machine keeps of it.

    Raises:
        SpecError: a job of it is queued, or an attempt lives, or nobody knows.
    """
    history = run.log.refresh()
    jobs = poll({run.name: history})
    if not is_idle(history, jobs):
        raise SpecError(Fault(run.url, f"{_hindrance(run, history, jobs)}; only what nobody works on can be deleted"))
    folders = _job_folders(run)
    remove_run(run)
    forget(run.root, run.name)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _job_folders(run: RunRoot) -> set[Path]:
    """Folders of the scripts and logs of all jobs of the run, as its whole log tells."""
    bounds: dict[str, Mapping[str, Any]] = {}
    found = set()
    for entry in run.log.read():
        if entry.kind == "submit":
            bounds[entry.token] = entry.fields["bounds"]
        elif entry.kind == "queued":
            found.add(folder_of(bounds.get(entry.fields["submit"], {}), entry.fields["job"]))
    return {folder for folder in found if folder is not None}


def _hindrance(run: RunRoot, history: History, jobs: Jobs) -> str:
    """Why a run cannot be deleted now, and what to do."""
    told, job = state(history, jobs), history.submit.job if history.submit else None
    if is_busy(history, jobs):
        return f"it is {told}; gmml cancel {run.name} first, and wait until it is stopped"
    if pending(history, jobs) == "unknown":
        return f"it is {told}, but whether job {job} is gone cannot be asked from here; ask where its scheduler answers"
    return f"it is {told}, but job {job} is still leaving; try again in a moment"
