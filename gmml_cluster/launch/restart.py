"""What happens after a start of a job.

Asked by whoever restarts when the ranks are gone: the batch script through `launch.slurm.restart`, the local supervisor
directly. It acts for the claim with its own token, job id and restart count; after a later claim or submit it does
nothing. It appends the `end` that the ranks could not write, and decides by the log.

Imports neither torch nor pydantic.
"""

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gmml_cluster.errors import Fenced
from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.after.exits import CRASHES
from gmml_cluster.launch.after.verdict import Verdict
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import COME_BACK, FINISHED, NEVER, RESTARTS, STORAGE, UNFIT
from gmml_cluster.run.ends import consequences
from gmml_cluster.run.ends.budgets import budgets, counted, is_worth_a_try, pause_s
from gmml_cluster.run.ends.causes import COUNTED, FREE
from gmml_cluster.run.history import Attempt, History
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.store.open import open_store

_LOOKED_AT = 8
# srun leaves 0 when it lost the step instead of seeing it end (seen on SLURM 22.05 after a kill -9 of slurmstepd), and
# ranks exit with 78 only where another process wrote the end. So without an `end` neither code is a verdict.
_CAUSES = {STORAGE: "storage", COME_BACK: "notice", FINISHED: "lost", NEVER: "lost"}
_NONE = Evidence()


@dataclass(frozen=True)
class JobStart:
    """One start of a job.

    Attributes:
        submit: token of the `submit` entry.
        job: the launcher's id.
        restart: how many starts of the submit came before, of this job and of those that it succeeds.
    """

    submit: str
    job: str
    restart: int


def restart_delay_s(
    root: str, run: str, *, submit: str, job: str, restart: int, rc: int, evidence: Evidence = _NONE
) -> float | None:
    """Seconds to wait before the job starts again; None where it must not.

    Args:
        root: where the run root lies.
        run: the run's name.
        submit: token of the `submit` entry that the job carries.
        job: the launcher's id of it.
        restart: number of the start.
        rc: highest exit code of the ranks, 128 and more for a signal.
        evidence: what else is known of it.

    Raises:
        StorageError: the log is out of reach.
    """
    log = Log(open_store(f"{root.rstrip('/')}/{run}"))
    verdict = judge(log, JobStart(submit, job, restart), rc, evidence)
    return verdict.pause_s if verdict.again else None


def judge(log: Log, start: JobStart, rc: int, evidence: Evidence = _NONE) -> Verdict:
    """Append what the log lacks of this start's end, and decide whether the job starts again.

    Args:
        log: of the run.
        start: the start that is over.
        rc: highest exit code of its ranks.
        evidence: what else is known of it.
    """
    try:
        if not _has_end(log, start):
            log.append(lambda history: missing_end(history, start, rc, evidence))
        _resolve_cause(log, start, rc, evidence)
        history = log.refresh()
        if not _is_past(history, start):
            history = consequences.draw(log, start.submit)
    except Fenced:
        return Verdict(again=False, cause="fenced")
    again = evidence.cause != "cancelled" and starts_again(history, start, rc, evidence)
    attempt = _claimed(history, start)
    cause = attempt.cause if attempt is not None else _unclaimed_cause(rc, evidence)
    pause = pause_s(len(counted(history)), budgets(history).longest_pause_s)
    finished = history.finished or cause == "finished"
    return Verdict(again, cause or "lost", pause, tuple(history.excluded), finished)


def missing_end(history: History, start: JobStart, rc: int, evidence: Evidence = _NONE) -> Draft | None:
    """The `end` to append: the attempt's, or that of a start which failed before its claim; None where none lacks."""
    if _is_past(history, start):
        return None
    attempt = _claimed(history, start)
    if attempt is not None and attempt.ended:
        return None
    cause, proof = _proved(rc, evidence)
    if attempt is not None:
        message = f"the ranks exited with {describe(rc)} and wrote no end"
        blamed = {"node": evidence.node} if evidence.node else {}
        details = {"message": _with_tail(message, evidence), "proof": proof, **blamed}
        return Draft("end", attempt.number, {"cause": cause, **details})
    if not _is_failed_start(history, start, rc, evidence):
        return None
    fields: dict[str, Any] = {"submit": start.submit, "job": start.job, "restart": start.restart}
    often = f", {_starts_without_claim(history, start)} starts in a row" if rc == COME_BACK else ""
    message = f"the job exited with {describe(rc)} before its claim{often}"
    return Draft(
        "end", None, {**fields, "cause": "start_failed", "message": _with_tail(message, evidence), "proof": proof}
    )


def _with_tail(message: str, evidence: Evidence) -> str:
    return f"{message}; {evidence.stderr_tail}" if evidence.stderr_tail else message


def _proved(rc: int, evidence: Evidence) -> tuple[str, str]:
    """Cause and proof for an `end` that is missing."""
    if evidence.cause is not None:
        return evidence.cause, evidence.proof
    if cause_of(rc) == "notice" and evidence.notice is not None:
        return evidence.notice, evidence.proof
    return cause_of(rc), f"exit code {rc}"


def _is_failed_start(history: History, start: JobStart, rc: int, evidence: Evidence) -> bool:
    """Whether a start without a claim failed, rather than being taken away or not wanted any more."""
    if evidence.cause == "cancelled" or evidence.cause in FREE or history.stopped or history.finished or rc == NEVER:
        return False
    return rc != COME_BACK or evidence.cause is not None or not _may_come_back(history, start)


def _unclaimed_cause(rc: int, evidence: Evidence) -> str:
    """Why a start without a claim ended."""
    return evidence.cause or (cause_of(rc) if rc == COME_BACK else "start_failed")


def _resolve_cause(log: Log, start: JobStart, rc: int, evidence: Evidence) -> None:
    """Append `cause` to an end whose reason the ranks could not know: a notice, or a peer that was lost.

    Where ranks were killed before the first step a notice counts as lost: one bad node may keep giving it.
    """
    history = log.refresh()
    attempt = _claimed(history, start)
    if attempt is None or attempt.ended not in protocol.RESOLVABLE or _is_past(history, start):
        return
    is_notice = attempt.ended == "notice"
    cause = evidence.cause or (evidence.notice if is_notice else None)
    if cause is not None:
        protocol.resolve_cause(log, attempt.number, cause, evidence.proof, node=evidence.node)
    elif is_notice and attempt.first_step is None and rc != COME_BACK:
        protocol.resolve_cause(log, attempt.number, "lost", f"exit code {rc}")


def starts_again(history: History, start: JobStart, rc: int, evidence: Evidence = _NONE) -> bool:
    """Whether the job starts again, its `end` being in the history; arguments as of `judge`."""
    if _is_past(history, start) or history.stopped or history.finished or rc == UNFIT:
        return False
    attempt = _claimed(history, start)
    if attempt is None:
        return rc != NEVER and (evidence.cause in FREE or rc != COME_BACK or _may_come_back(history, start))
    if attempt.cause in FREE:
        return True
    return attempt.cause in COUNTED or is_worth_a_try(history, attempt)


def cause_of(rc: int) -> str:
    """The cause that an exit code proves where the log has no `end`."""
    if rc in _CAUSES:
        return _CAUSES[rc]
    return "lost" if rc > 128 and rc - 128 not in CRASHES else "error"


def describe(rc: int) -> str:
    """An exit code in words."""
    try:
        return f"signal {signal.Signals(rc - 128).name}" if rc > 128 else f"code {rc}"
    except ValueError:
        return f"code {rc}"


def _is_past(history: History, start: JobStart) -> bool:
    """Whether there is a later claim or submit, or the run is gone."""
    if history.submit is None or history.submit.token != start.submit:
        return True
    latest = history.attempts[-1] if history.attempts else None
    if latest is None or latest.submit != start.submit:
        return False
    return latest.restart > start.restart or (latest.restart == start.restart and latest.job != start.job)


def _claimed(history: History, start: JobStart) -> Attempt | None:
    found = (a for a in history.attempts if JobStart(a.submit, a.job, a.restart) == start)
    return next(found, None)


def _may_come_back(history: History, start: JobStart) -> bool:
    """Whether a notice before the claim is believed: one bad node may keep giving it to the others."""
    return _starts_without_claim(history, start) <= RESTARTS


def _starts_without_claim(history: History, start: JobStart) -> int:
    """Starts of this submit since the last that claimed, this one included."""
    claimed = [a.restart for a in history.attempts if a.submit == start.submit]
    return start.restart - max(claimed, default=-1)


def _has_end(log: Log, start: JobStart) -> bool:
    """Whether the log has the `end` of this start's attempt, or where it has no attempt that of the start.

    Both can be there: where the reply to a claim was lost, the ranks recorded a failed start although the claim holds.
    """
    attempt = _claimed(log.refresh(), start)
    if attempt is not None:
        return attempt.ended is not None
    last = log.read(max(0, log.refresh().slots - _LOOKED_AT))
    return any(e.kind == "end" and e.attempt is None and _names(e.fields, start) for e in last)


def _names(fields: Mapping[str, Any], start: JobStart) -> bool:
    return JobStart(fields["submit"], fields.get("job", ""), fields.get("restart", -1)) == start
