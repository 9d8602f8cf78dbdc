"""What a rank printed, as it appears: from this machine's own file if it is here, else from uploaded parts."""

import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.launch.jobs import JobRef, Jobs, is_busy, poll, poll_one
from gmml_cluster.launch.registry import LAUNCHERS, launcher_named
from gmml_cluster.run.history import Attempt, History
from gmml_cluster.run.ledger import living, pending, reason
from gmml_cluster.run.uploads import log_parts

if TYPE_CHECKING:
    from gmml_cluster.run.root import RunRoot

LOOK_S = 1.0
POLL_S = 5.0


class File:
    """A growing file of this machine; each `new` returns what was appended since the last."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read = 0

    def new(self) -> str:
        """Text that appeared since the last call; empty where none did."""
        with self.path.open("rb") as file:
            file.seek(self._read)
            data = file.read()
        self._read += len(data)
        return data.decode(errors="replace")


class Tail:
    """The output of one rank of one attempt; each `new` returns what was appended since the last.

    Args:
        begun: the file that was read before the attempt claimed; reading continues in it if it is the attempt's.
    """

    def __init__(self, run: "RunRoot", attempt: Attempt, rank: int, begun: File | None = None) -> None:
        self.attempt = attempt
        self._run, self._rank = run, rank
        path = local_output(attempt, rank)
        self._file = begun if begun is not None and begun.path == path else File(path) if path else None
        self._read = 0

    def new(self) -> str:
        """Text that appeared since the last call; empty where none did."""
        if self._file is not None:
            return self._file.new()
        parts = log_parts(self._run.store, attempt=self.attempt.number, rank=self._rank)[self._read :]
        self._read += len(parts)
        return "".join(self._run.store.get(part).decode(errors="replace") for part in parts)


def local_output(attempt: Attempt, rank: int) -> Path | None:
    """The file of this machine that holds what the rank printed; None where there is none."""
    return _output(JobRef.of(attempt), {}, attempt.restart, rank)


def start_output(history: History, rank: int) -> Path | None:
    """The file that can be read here with what a rank of the latest submit's last start prints, claimed or not."""
    submit = history.submit
    return None if submit is None else _output(JobRef.of(submit), submit.bounds, None, rank)


def _output(job: JobRef | None, bounds: Mapping[str, Any], restart: int | None, rank: int) -> Path | None:
    if job is None or job.launcher not in LAUNCHERS:
        return None
    return launcher_named(job.launcher).output(job.id, bounds, restart=restart, rank=rank)


def output_of_start(history: History, rank: int) -> str:
    """What a rank of the latest submit's last start printed; empty where no file of it can be read here."""
    path = start_output(history, rank)
    return File(path).new() if path else ""


def follow(run: "RunRoot", rank: int, *, first: int | None = None) -> Iterator[str]:
    """Texts of a rank over all attempts, until nothing works on the run; those of a local start even before its claim.

    Args:
        run: where it was found.
        rank: of each attempt.
        first: number of the first attempt; the latest by default.
    """
    tail: Tail | None = None
    begun: File | None = None
    history = run.log.refresh()
    for attempt in history.attempts[:-1]:
        if first is not None and attempt.number >= first:
            yield Tail(run, attempt, rank).new()
    jobs, asked = poll_one(run.name, history), time.monotonic()
    waits = ""
    while True:
        history = run.log.refresh()
        latest = history.attempts[-1] if history.attempts else None
        if latest is not None and (tail is None or tail.attempt.number != latest.number) and _is_new(history, jobs):
            if tail is not None:
                yield tail.new()
            tail = Tail(run, latest, rank, begun)
        if time.monotonic() - asked > POLL_S or _has_ended(history):
            jobs, asked = poll_one(run.name, history), time.monotonic()
        if (reason := waits_for(history, jobs)) != waits:
            waits = reason
            if waits:
                yield f"{waits}\n"
        path = start_output(history, rank) if tail is None else None
        if path is not None:
            begun = begun if begun is not None and begun.path == path else File(path)
            yield begun.new()
        if tail is not None:
            yield tail.new()
        if not _at_work(history, jobs):
            return
        time.sleep(LOOK_S)


def is_at_work(run: "RunRoot") -> bool:
    """Whether a job of the run is queued or an attempt lives."""
    history = run.log.refresh()
    return _at_work(history, poll_one(run.name, history))


def at_work(runs: "Sequence[RunRoot]") -> "list[RunRoot]":
    """Those of which a job is queued or an attempt lives, by one call to each scheduler."""
    histories = {run.url: run.log.refresh() for run in runs}
    jobs = poll(histories)
    return [run for run in runs if _at_work(histories[run.url], jobs[run.url])]


def ended_without_finishing(run: "RunRoot") -> str:
    """Why a run that nothing works on has not finished, and what to do; empty where it has."""
    history = run.log.refresh()
    if history.finished:
        return ""
    report = poll_one(run.name, history).latest(history)
    ending = report.reason if report is not None and report.reason else _ending(history)
    return f"{ending}; see gmml logs {run.name}; gmml resume {run.name} continues it"


def headline(attempt: Attempt) -> str:
    """One line: which attempt ended with which cause, on which rank and host, with what message."""
    details, message = attempt.details, reason(attempt).splitlines()
    by_rank = "rank" in details and not attempt.resolved
    where = f"rank {details['rank']} on {details.get('host', 'an unknown host')}: " if by_rank else ""
    return f"attempt {attempt.number} ended with {attempt.cause}" + (f": {where}{message[0]}" if message else "")


def _ending(history: History) -> str:
    if history.stopped is not None:
        return f"was stopped: {history.stopped}"
    if history.submit is not None and history.submit.failed:
        return f"did not start: {history.submit.failed.splitlines()[0]}"
    last = history.attempts[-1] if history.attempts else None
    if last is None or last.cause is None:
        return "nothing works on it any more, and the log does not say why"
    return headline(last)


def _at_work(history: History, jobs: Jobs) -> bool:
    return is_busy(history, jobs) or pending(history, jobs.states) not in (None, "unknown")


def waits_for(history: History, jobs: Jobs) -> str:
    """A line on what the latest submit's job waits for in the queue; empty where it is not queued."""
    job = JobRef.of(history.submit) if history.submit else None
    report = jobs.reports.get(job) if job else None
    if job is None or report is None or report.state != "queued":
        return ""
    start = report.expected_start
    expected = f", expected to start at {time.strftime('%Y-%m-%d %H:%M', time.localtime(start))}" if start else ""
    return f"gmml: job {job.id} is queued: {report.reason or 'its scheduler gives no reason'}{expected}"


def _is_new(history: History, jobs: Jobs) -> bool:
    """Whether the latest attempt belongs to the latest submit, or still lives."""
    submit = history.submit
    return living(history, jobs.states) is not None or (
        submit is not None and history.attempts[-1].submit == submit.token
    )


def _has_ended(history: History) -> bool:
    return (
        history.finished or history.stopped is not None or (history.submit is not None and bool(history.submit.failed))
    )
