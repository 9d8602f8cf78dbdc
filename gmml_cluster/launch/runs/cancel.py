"""How a person ends a run: `cancel` lets it save and stop, `remove` deletes it once nothing works on it."""

import getpass
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gmml_cluster.errors import Fault, LaunchError, SpecError
from gmml_cluster.launch.after.living import refuse_living
from gmml_cluster.launch.folders import folder_of
from gmml_cluster.launch.jobs import JobRef, Jobs, is_busy, is_idle, poll_one, refs_of
from gmml_cluster.launch.registry import launcher_named, launchers
from gmml_cluster.run import protocol
from gmml_cluster.run.finding.location import demand_in_place, misplaced
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import living, pending, state
from gmml_cluster.run.root import RunRoot, remove_run


@dataclass(frozen=True)
class Cancelled:
    """What came of a cancel.

    Attributes:
        action: `stopping` (a job is on its way out), `stopped` (nothing worked on the run), `already` (it was stopped
            before) or `finished`.
        done: what was done, for people.
    """

    action: Literal["stopping", "stopped", "already", "finished"]
    done: str


def cancel(run: RunRoot) -> Cancelled:
    """Append `stop` and signal the job, so that its attempt commits once more and ends; may be repeated.

    Raises:
        LaunchError: the scheduler is out of reach, and a job is queued there.
        SpecError: the run is a copy, so that its log names another's jobs.
    """
    demand_in_place(run, moved=True)
    history = run.log.refresh()
    if history.finished:
        return Cancelled("finished", "has finished already; nothing was done")
    jobs = poll_one(run.name, history)
    left = [job for job in refs_of(history) if jobs.reports[job].state != "gone"]
    if history.stopped is not None and not left:
        return Cancelled("already", f"was stopped already ({history.stopped}); nothing was done")
    protocol.stop(run.log, f"cancelled by {getpass.getuser()}")
    if not left:
        return Cancelled("stopped", f"stopped; no job of it is queued or runs; gmml resume {run.name} continues it")
    history = run.log.refresh()  # a queued job may have claimed before the stop, though not after it
    jobs = poll_one(run.name, history)
    done = ", ".join(_end_job(run, job, history, jobs) for job in left)
    later = f"once it is stopped, gmml resume {run.name} continues from there"
    return Cancelled("stopping", f"stopping; {done}; {later}")


def _end_job(run: RunRoot, job: JobRef, history: History, jobs: Jobs) -> str:
    """Notify a job whose attempt lives, so that it has time for a save; cancel any other, which must exit at once.

    The stop is in the log by then, which ranks read every few seconds: where the scheduler is out of reach an attempt
    stops all the same, only later.
    """
    launcher, alive = launcher_named(job.launcher), living(history, jobs.states)
    if alive is not None and JobRef.of(alive) == job:
        try:
            launcher.give_notice(job.id)
        except LaunchError as error:
            ended = run.log.refresh().attempt(alive.number)
            if ended is not None and ended.cause is not None:
                return f"attempt {alive.number} has saved and left"
            return f"job {job.id} could not be signalled ({error}); it reads the stop from the log, saves and leaves"
        return f"job {job.id} saves and leaves"
    try:
        launcher.cancel(job.id)
    except LaunchError as error:
        hint = f"the run is stopped all the same: job {job.id} claims nothing once it starts"
        raise LaunchError(Fault(run.name, str(error), hint)) from error
    return f"job {job.id} is cancelled"


def remove(run: RunRoot) -> None:
    """Delete a run, and what this machine keeps of it; of a copy its own files alone, for its jobs are the original's.

    Raises:
        SpecError: a job of it is queued, or an attempt lives, or neither is known.
    """
    found = misplaced(run)
    if found is not None and found.kind == "copied":
        refuse_living(run, History())
        remove_run(run)
        return
    history = run.log.refresh()
    jobs = poll_one(run.name, history)
    if not is_idle(history, jobs):
        problem, hint = _hindrance(run, history, jobs)
        raise SpecError(Fault(run.url, f"{problem}; only a run that nothing works on can be deleted", hint))
    refuse_living(run, history)
    folders = _job_folders(run)
    remove_run(run)
    for launcher in launchers():
        launcher.forget(run.root, run.name)
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def _job_folders(run: RunRoot) -> set[Path]:
    """Folders of the scripts and logs of all jobs that the run's log names, from its first slot on."""
    bounds: dict[str, Mapping[str, Any]] = {}
    found = set()
    for entry in run.log.read():
        if entry.kind == "submit":
            bounds[entry.token] = entry.fields["bounds"]
        elif entry.kind == "queued":
            found.add(folder_of(bounds.get(entry.fields["submit"], {}), entry.fields["job"]))
    return {folder for folder in found if folder is not None}


def _hindrance(run: RunRoot, history: History, jobs: Jobs) -> tuple[str, str]:
    """Why a run cannot be deleted now, and what to do."""
    now, job = state(history, jobs.states), history.submit.job if history.submit else None
    if is_busy(history, jobs):
        return f"it is {now}", f"gmml cancel {run.name} first, and wait until it is stopped"
    if pending(history, jobs.states) == "unknown":
        problem = f"it is {now}, but whether job {job} is gone cannot be asked from here"
        return problem, "ask where its scheduler answers"
    return f"it is {now}, but job {job} is still leaving", "try again in a moment"
