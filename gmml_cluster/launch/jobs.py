"""What schedulers say of runs: one poll a launcher, however many runs are asked about."""

import logging
from collections import defaultdict
from collections.abc import Mapping

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch.protocol import JobState, Launcher, launcher_named
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import jobs_of, pending, state

Jobs = dict[str, JobState]

_BUSY = ("submitted", "queued", "starting", "running", "stopping")

_log = logging.getLogger(__name__)


def poll(histories: Mapping[str, History]) -> Jobs:
    """States of all jobs that matter to these runs; unknown where their launcher cannot be asked.

    Args:
        histories: name or URL of the run -> its history.
    """
    asked: dict[str, dict[str, str]] = defaultdict(dict)
    for name, history in histories.items():
        for job in jobs_of(history):
            asked[_kind(job)][job] = name.rpartition("/")[2]
    return {job: told for launcher, jobs in asked.items() for job, told in _poll(launcher, jobs).items()}


def launcher_of(job: str) -> Launcher:
    """The launcher that took a job."""
    return launcher_named(_kind(job))


def _kind(job: str) -> str:
    """Job ids tell their launcher: SLURM's are numbers, the local one's `host:run:submit`."""
    return "local" if ":" in job else "slurm"


def _poll(launcher: str, jobs: Mapping[str, str]) -> Jobs:
    try:
        return launcher_named(launcher).poll(jobs)
    except GmmlError as fault:
        _log.warning("%s cannot be asked: %s", launcher, fault)
        return dict.fromkeys(jobs, "unknown")


def is_busy(history: History, jobs: Jobs) -> bool:
    """Whether a job of the run is queued, or an attempt lives."""
    return state(history, jobs) in _BUSY


def is_idle(history: History, jobs: Jobs) -> bool:
    """Whether surely nothing of the run is at work.

    A job that is about to leave is at work, and so is one that nobody can be asked about, unless the run has finished.
    """
    told = pending(history, jobs)
    return not is_busy(history, jobs) and (told is None or (told == "unknown" and history.finished))
