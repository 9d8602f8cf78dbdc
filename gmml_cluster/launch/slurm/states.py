"""What squeue and sacct say of jobs, as reports."""

from collections.abc import Mapping
from datetime import datetime

from gmml_cluster.launch.protocol import JobReport, JobState

FORMAT = "%i|%T|%r|%S|%j"
"""squeue's fields: id, state, reason, expected start, name (last, as it may hold anything)."""

_QUEUED = frozenset(
    ["CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"]
)
_RUNNING = frozenset(["COMPLETING", "RESIZING", "RUNNING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"])
_GONE = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    ]
)
# SLURM's reasons, in words: what a queued job waits for; any other is shown as it is.
_REASONS = {
    "JobHeldUser": "held by its owner; `scontrol release {job}` lets it go",
    "JobHeldAdmin": "held by an administrator; ask the site",
    "job requeued in held state": "requeued and held; `scontrol release {job}` lets it go",
    "BeginTime": "waits for its begin time, as every requeued job does for up to two minutes",
    "Priority": "jobs of higher priority are before it",
    "Resources": "waits for free nodes",
    "Dependency": "waits for another job",
    "ReqNodeNotAvail": "nodes that it needs are down, drained or reserved",
    "QOSMaxJobsPerUserLimit": "the limit of its QOS on jobs a user is reached",
    "PartitionDown": "its partition is down",
    "JobArrayTaskLimit": "waits for its turn: as many runs of its sweep as it may have are at work",
}


def reports(listing: str, jobs: Mapping[str, str]) -> dict[str, JobReport]:
    """Reports on jobs from squeue's lines of `FORMAT`; what is not listed, or has another run's name, is gone.

    Args:
        listing: squeue's standard output.
        jobs: job id -> name of its run.
    """
    rows = {row[0]: row[1:] for row in (line.split("|", 4) for line in listing.splitlines()) if len(row) == 5}
    gone = ("COMPLETED", "", "", "")
    mine = {job: rows[job] if job in rows and _is_of(job, rows[job][3], name) else gone for job, name in jobs.items()}
    return {job: _report(job, *row[:3]) for job, row in mine.items()}


def _is_of(job: str, shown: str, run: str) -> bool:
    """Whether a job's name is that of its run; an array's is what the names of its runs begin with."""
    return shown.strip() == run or ("_" in job and run.startswith(shown.strip()))


def _report(job: str, word: str, reason: str, start: str) -> JobReport:
    state = state_of(word)
    if word == "SUSPENDED":
        return JobReport(state, "suspended; its scheduler lets it go on later")
    if state != "queued":
        return JobReport(state)
    return JobReport(state, _wait(job, reason.strip()), _time(start))


def _wait(job: str, reason: str) -> str:
    known = _REASONS.get(reason.split(",")[0])
    if known is not None:
        return f"{known.format(job=job)} ({reason})"
    return "" if reason == "None" else reason


def _time(start: str) -> float | None:
    try:
        return datetime.fromisoformat(start.strip()).timestamp()
    except ValueError:  # N/A where the scheduler has no estimate
        return None


def accounted(listing: str, jobs: Mapping[str, str]) -> dict[str, JobReport]:
    """Reports from sacct's lines `id|STATE|name`: it proves that jobs are gone; all others are unknown."""
    rows = {row[0]: row[1:] for row in (line.split("|", 2) for line in listing.splitlines()) if len(row) == 3}

    def is_gone(job: str, name: str) -> bool:
        return job in rows and (not _is_of(job, rows[job][1], name) or state_of(rows[job][0]) == "gone")

    return {job: JobReport("gone" if is_gone(job, name) else "unknown") for job, name in jobs.items()}


def state_of(word: str) -> JobState:
    """State of a word of SLURM's, such as `CANCELLED by 1000`; one that this table lacks is `unknown`."""
    first = word.strip().split(" ")[0]
    if first in _QUEUED:
        return "queued"
    if first in _RUNNING:
        return "running"
    return "gone" if first in _GONE else "unknown"
