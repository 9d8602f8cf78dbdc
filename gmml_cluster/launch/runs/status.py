"""What runs are doing: the ledger of each, its jobs' states, and how far a live attempt has come.

Imports no pydantic: `gmml status` is asked often. One scheduler call for all runs, one listing and one read for each
run that trains.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from gmml_cluster.errors import StorageError
from gmml_cluster.launch.jobs import Jobs, jobs_of_copy, poll
from gmml_cluster.outputs.status import EvaluationsOutput, HeadOutput, ProgressOutput, RankErrorsOutput, StatusOutput
from gmml_cluster.run.ends import failures
from gmml_cluster.run.finding.location import misplaced
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import living, status
from gmml_cluster.run.progress import Progress, read_map_pass, read_progress, total_steps
from gmml_cluster.run.results.evaluation_progress import head_of, progress_of
from gmml_cluster.run.results.evaluations import kept, table
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.saving.space import room_lacking
from gmml_cluster.store.open import open_store


@dataclass(frozen=True)
class Statuses:
    """Documents of the runs that could be read, and the faults of the others."""

    documents: list[StatusOutput] = field(default_factory=list)
    faults: list[StorageError] = field(default_factory=list)


def statuses(runs: Sequence[RunRoot], *, evaluations: bool = False) -> Statuses:
    """The status of each run, as `gmml status --json` prints it (docs/outputs.md).

    Args:
        runs: of any roots.
        evaluations: whether to read what was scored too, and the errors of the last attempt's ranks: some requests a
            run, so not for a list of them.
    """
    found = Statuses()
    histories: dict[str, History] = {}
    readable = []
    for run in runs:
        try:
            histories[run.url] = run.log.refresh()
            readable.append(run)
        except StorageError as fault:
            found.faults.append(fault)
    jobs = poll(histories)
    for run in readable:
        try:
            document = _document(run, histories[run.url], jobs[run.url])
            if evaluations:
                document["evaluations"] = _evaluations(run, histories[run.url], document)
                document["errors"] = _errors(run, histories[run.url])
            found.documents.append(document)
        except StorageError as fault:
            found.faults.append(fault)
    return found


def _document(run: RunRoot, history: History, jobs: Jobs) -> StatusOutput:
    found = misplaced(run)
    if found is not None and found.kind == "copied":
        jobs = jobs_of_copy(history)
    ledger = status(history, jobs.states)
    lives = living(history, jobs.states) is not None
    progress = read_progress(run.store, history) if lives else None
    report = jobs.latest(history)
    return {
        **ledger,
        "run": run.name,
        "root": run.root,
        "url": run.url,
        "version": 3,
        "step": ledger["step"] if progress is None else progress.step,
        "steps": total_steps(history),
        "progress": _figures(progress),
        "map_pass": read_map_pass(run.store, history) if lives else None,
        "queue_reason": None if report is None else report.reason or None,
        "expected_start": None if report is None else report.expected_start,
        "lacks_room": None if history.finished else _lacking(run, history),
        "misplaced": None if found is None else str(found.fault),
        "evaluations": None,
        "errors": None,
    }


def _lacking(run: RunRoot, history: History) -> str | None:
    """That the next checkpoint will not fit, judged by the last one."""
    lacking = room_lacking(run.url, history.commits[-1].size) if history.commits else None
    return None if lacking is None else str(lacking)


def _errors(run: RunRoot, history: History) -> list[RankErrorsOutput]:
    """Those of the last attempt that has ended, grouped, the original first."""
    last = history.attempts[-1] if history.attempts else None
    return [] if last is None or last.ended is None else failures.read(run.store, last.number)


def _evaluations(run: RunRoot, history: History, document: StatusOutput) -> EvaluationsOutput:
    """What was scored, what is being scored, what was given up, and the runs under the same root that train heads."""
    scored, attempts = table(kept(run)), document["attempts"]
    alive = next((each["attempt"] for each in attempts if each["ended"] is None and each["cause"] is None), None)
    heads = [RunRoot(run.root, name) for name in open_store(run.root).folders() if head_of(name, run.name)]
    return {
        "ran": scored,
        **progress_of(run, [attempt.number for attempt in history.attempts], alive, scored),
        "heads": [_head(run, head) for head in statuses(heads).documents] if heads else [],
    }


def _head(run: RunRoot, document: StatusOutput) -> HeadOutput:
    last = document["attempts"][-1] if document["attempts"] else None
    problem = document["start_failed"] or (last["reason"] if last else None)
    failed = document["state"] in ("failed", "interrupted")
    return {
        "score": head_of(document["run"], run.name),
        "run": document["run"],
        "state": document["state"],
        "step": document["step"],
        "steps": document["steps"],
        "since": last["started"] if last else None,
        "problem": str(problem).partition("\n")[0] if failed and problem else None,
    }


def _figures(progress: Progress | None) -> ProgressOutput | None:
    if progress is None:
        return None
    return {
        "attempt": progress.attempt,
        "loss": progress.loss,
        "samples_per_s": progress.samples_per_s,
        "data_wait_share": progress.data_wait_share,
        "left_s": progress.left_s,
        "slow_ranks": list(progress.slow_ranks),
    }
