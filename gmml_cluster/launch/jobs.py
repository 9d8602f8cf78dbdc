"""Jobs of runs: how they are named, and what their schedulers report, by one poll a launcher for all runs."""

import logging
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gmml_cluster.errors import GmmlError
from gmml_cluster.launch.protocol import JobReport, JobState
from gmml_cluster.launch.registry import launcher_named
from gmml_cluster.run.history import Attempt, History, Submit
from gmml_cluster.run.ledger import jobs_of, pending, state

_BUSY = ("submitted", "queued", "starting", "running", "stopping")

_log = logging.getLogger(__name__)


@dataclass(frozen=True, order=True)
class JobRef:
    """A job: the launcher that took it, and the id that it has there."""

    launcher: str
    id: str

    @classmethod
    def of(cls, entry: Submit | Attempt) -> "JobRef | None":
        """The job of a submit or an attempt; None while the log names none."""
        return cls(entry.launcher, entry.job) if entry.job else None


@dataclass(frozen=True)
class Jobs:
    """What the launchers report of the jobs of one run."""

    reports: Mapping[JobRef, JobReport] = field(default_factory=dict)

    def latest(self, history: History) -> JobReport | None:
        """The report on the latest submit's job; None where it has none.

        Why a job is gone is the log's to say: a launcher's own reason counts only where the log has none.
        """
        job = JobRef.of(history.submit) if history.submit else None
        report = self.reports.get(job) if job else None
        if report is not None and report.state == "gone" and _says_why(history):
            return replace(report, reason="")
        return report

    @property
    def lingering(self) -> bool:
        """Whether processes of a job that is gone still work on the run."""
        return any(report.lingering for report in self.reports.values())

    @property
    def states(self) -> dict[str, JobState]:
        """Job id -> state, as the ledger wants them."""
        return {job.id: report.state for job, report in self.reports.items()}


def _says_why(history: History) -> bool:
    """Whether the log has why nothing of the latest submit works any more.

    A notice alone does not say it. Whoever gave it goes on with the run or adds the cause, unless it is lost itself: a
    driver of Ray's that is killed leaves nobody to do so where rank 0 is gone before it misses its own Ray worker.
    """
    submit, last = history.submit, history.attempts[-1] if history.attempts else None
    if submit is None:
        return False
    ended = last is not None and last.submit == submit.token and last.cause not in (None, "notice")
    return ended or history.stopped is not None or submit.failed is not None


def refs_of(history: History) -> tuple[JobRef, ...]:
    """The jobs whose states decide what a run is doing: the latest submit's, and those of attempts without an `end`."""
    wanted = set(jobs_of(history))
    entries: list[Submit | Attempt] = [*([history.submit] if history.submit else []), *history.attempts]
    found = (JobRef.of(entry) for entry in entries)
    return tuple(dict.fromkeys(job for job in found if job is not None and job.id in wanted))


def poll(histories: Mapping[str, History]) -> dict[str, Jobs]:
    """The jobs of each run; unknown where their launcher cannot be asked.

    Args:
        histories: name or URL of the run -> its history.
    """
    wanted = {run: refs_of(history) for run, history in histories.items()}
    asked: dict[str, dict[str, str]] = defaultdict(dict)
    for run, refs in wanted.items():
        for job in refs:
            submitted_at = histories[run].location or run  # a job has the name that the run had when it was submitted
            asked[job.launcher][job.id] = submitted_at.rpartition("/")[2]
    reports = {launcher: _poll(launcher, jobs) for launcher, jobs in asked.items()}
    return {run: Jobs({job: reports[job.launcher][job.id] for job in refs}) for run, refs in wanted.items()}


def jobs_of_copy(history: History) -> Jobs:
    """The jobs of a copied run, which are the original's: as far as the copy goes they are gone."""
    return Jobs({job: JobReport("gone") for job in refs_of(history)})


def poll_one(name: str, history: History) -> Jobs:
    """The jobs of one run."""
    return poll({name: history})[name]


def _poll(launcher: str, jobs: Mapping[str, str]) -> dict[str, JobReport]:
    try:
        return launcher_named(launcher).poll(jobs)
    except GmmlError as fault:
        _log.warning("%s cannot be asked: %s", launcher, fault)
        return dict.fromkeys(jobs, JobReport("unknown"))


def is_busy(history: History, jobs: Jobs) -> bool:
    """Whether a job of the run is queued, or an attempt lives."""
    return state(history, jobs.states) in _BUSY


def is_idle(history: History, jobs: Jobs) -> bool:
    """Whether surely nothing of the run is at work.

    A job that is about to exit is at work, and so is one that cannot be asked about, unless the run has finished.
    """
    waiting = pending(history, jobs.states)
    if jobs.lingering:
        return False
    return not is_busy(history, jobs) and (waiting is None or (waiting == "unknown" and history.finished))
