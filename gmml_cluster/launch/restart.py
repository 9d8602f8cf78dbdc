"""What happens after an attempt: `python -m gmml_cluster.launch.restart RUNROOT ...` says `requeue` or `nothing`.

Run by whoever restarts (the batch script, the local supervisor) when the ranks are gone. It speaks for the claim that
carries its own token, job id and restart count; where a younger claim or submit stands it does nothing at all. It
appends the `end` that the ranks could not write. Imports neither torch nor pydantic.
"""

import argparse
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gmml_cluster.errors import Fenced, GmmlError
from gmml_cluster.launch.slurm.logs import last_words
from gmml_cluster.run import protocol
from gmml_cluster.run.causes import COUNTED, FREE
from gmml_cluster.run.codes import COME_BACK, NEVER, RESTARTS, STORAGE
from gmml_cluster.run.history import Attempt, History
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.store.open import open_store

TRIES = 3
_WORD = "the scheduler's word"
_PROVED = {STORAGE: "storage", COME_BACK: "notice"}
_CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)


@dataclass(frozen=True)
class JobStart:
    """One start of a job: the `submit` entry's token, the launcher's job id, how often it was started before."""

    submit: str
    job: str
    restart: int


def after(root: str, run: str, *, submit: str, job: str, restart: int, rc: int) -> float | None:
    """Seconds to wait before the job starts again; None where it must not.

    Args:
        root: where the run root lies.
        run: the run's name.
        submit: token of the `submit` entry that the job carries.
        job: the launcher's id of it.
        restart: how often the job was started before.
        rc: highest exit code of the ranks, 128 and more for a signal.

    Raises:
        StorageError: the log is out of reach.
    """
    again = settle(Log(open_store(f"{root.rstrip('/')}/{run}")), JobStart(submit, job, restart), rc)
    return 0.0 if again else None


def settle(log: Log, mine: JobStart, rc: int, *, word: str | None = None, said: str = "") -> bool:
    """Append what is missing of this incarnation's end, and say whether it starts again.

    Args:
        log: of the run.
        mine: the start that is over.
        rc: highest exit code of its ranks.
        word: cause that the scheduler proves, as `scheduler_word` has it.
        said: last words of a start without a claim, and where they stand.
    """
    try:
        if not _is_told(log, mine):
            log.append(lambda history: missing_end(history, mine, rc, word, said))
        _settle_notice(log, mine, rc, word)
        history = log.refresh()
    except Fenced:
        return False
    return word != "cancelled" and goes_again(history, mine, rc, word) and not _starts_in_vain(log, history)


def scheduler_word(state: str, why: str) -> str | None:
    """The cause that SLURM proves: a job that is ended without a reason was cancelled by a person.

    Args:
        state: the job's, such as COMPLETING.
        why: what its stderr says after `DUE TO`; empty where it says nothing.
    """
    if state == "COMPLETING" and not why:
        return "cancelled"
    return {"PREEMPTION": "preempted", "TIME LIMIT": "time_limit"}.get(why)


def missing_end(history: History, mine: JobStart, rc: int, word: str | None = None, said: str = "") -> Draft | None:
    """The `end` to append: the attempt's, or that of a start which failed before its claim; None where none lacks."""
    if _is_past(history, mine):
        return None
    proof = f"exit code {rc}" if word is None else _WORD
    told = {"message": f"the ranks left with {describe(rc)} and wrote no end", "proof": proof}
    attempt = _claimed(history, mine)
    if attempt is not None:
        return None if attempt.ended else Draft("end", attempt.number, {"cause": word or cause_of(rc), **told})
    if (
        word is not None
        or history.stopped
        or history.finished
        or rc in (0, NEVER)
        or (rc == COME_BACK and _may_come_back(history, mine))
    ):
        return None
    fields: dict[str, Any] = {"submit": mine.submit, "job": mine.job, "restart": mine.restart, "cause": "start_failed"}
    often = f", {_starts_without_claim(history, mine)} starts in a row" if rc == COME_BACK else ""
    message = f"the job left with {describe(rc)} before its claim{often}{said and '; '}{said}"
    return Draft("end", None, {**fields, **told, "message": message})


def _settle_notice(log: Log, mine: JobStart, rc: int, word: str | None) -> None:
    """Prove an `end notice`: by the scheduler's word, or as lost where a rank was killed before the first step."""
    history = log.refresh()
    attempt = _claimed(history, mine)
    if attempt is None or attempt.ended != "notice" or _is_past(history, mine):
        return
    if word is not None:
        protocol.resolve_cause(log, attempt.number, word, _WORD)
    elif attempt.first_step is None and rc != COME_BACK:
        protocol.resolve_cause(log, attempt.number, "lost", f"exit code {rc}")


def goes_again(history: History, mine: JobStart, rc: int, word: str | None = None) -> bool:
    """Whether the job starts again, its `end` being in the history; arguments as of `settle`."""
    if _is_past(history, mine) or history.stopped or history.finished:
        return False
    attempt = _claimed(history, mine)
    if attempt is None:
        return rc not in (0, NEVER) and (word in FREE or rc != COME_BACK or _may_come_back(history, mine))
    if attempt.cause in FREE:
        return True
    return attempt.cause in COUNTED and _tries_without_commit(history, mine) < TRIES


def cause_of(rc: int) -> str:
    """The cause that an exit code can prove where the log has none."""
    if rc in _PROVED:
        return _PROVED[rc]
    return "lost" if rc > 128 and rc - 128 not in _CRASHES else "error"


def describe(rc: int) -> str:
    """An exit code in words."""
    try:
        return f"signal {signal.Signals(rc - 128).name}" if rc > 128 else f"code {rc}"
    except ValueError:
        return f"code {rc}"


def _is_past(history: History, mine: JobStart) -> bool:
    """Whether a younger claim or submit stands, or the run is gone."""
    if history.submit is None or history.submit.token != mine.submit:
        return True
    youngest = history.attempts[-1] if history.attempts else None
    if youngest is None or youngest.submit != mine.submit:
        return False
    return youngest.job != mine.job or youngest.restart > mine.restart


def _claimed(history: History, mine: JobStart) -> Attempt | None:
    found = (a for a in history.attempts if JobStart(a.submit, a.job, a.restart) == mine)
    return next(found, None)


def _may_come_back(history: History, mine: JobStart) -> bool:
    """Whether a notice before the claim is believed: one bad node may give it to the others for ever."""
    return _starts_without_claim(history, mine) <= RESTARTS


def _starts_without_claim(history: History, mine: JobStart) -> int:
    """Starts of this job since the last that claimed, this one included."""
    claimed = [a.restart for a in history.attempts if (a.submit, a.job) == (mine.submit, mine.job)]
    return mine.restart - max(claimed, default=-1)


def _tries_without_commit(history: History, mine: JobStart) -> int:
    """Attempts of counted causes under this submit since the last one that made a checkpoint."""
    since = history.commits[-1].attempt if history.commits else 0
    return sum(a.number > since and a.submit == mine.submit and a.cause in COUNTED for a in history.attempts)


def _is_told(log: Log, mine: JobStart) -> bool:
    """Whether the log says how this incarnation ended: the `end` of its attempt, or where it has none of its start.

    A claim whose reply was lost stands although the ranks took it for a failed start.
    """
    attempt = _claimed(log.refresh(), mine)
    if attempt is not None:
        return attempt.ended is not None
    last = log.read(max(0, log.refresh().slots - TRIES))
    return any(e.kind == "end" and e.attempt is None and _names(e.fields, mine) for e in last)


def _names(fields: Mapping[str, Any], mine: JobStart) -> bool:
    return JobStart(fields["submit"], fields.get("job", ""), fields.get("restart", -1)) == mine


def _starts_in_vain(log: Log, history: History) -> bool:
    """Whether the last three things that happened are starts that failed."""
    last = list(log.read(max(0, history.slots - TRIES)))
    return len(last) >= TRIES and all(e.kind == "end" and e.fields["cause"] == "start_failed" for e in last)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the verdict; where the log cannot be reached print none, and leave the decision to the caller's rule."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.restart")
    parser.add_argument("run_root")
    for name in ("submit", "job"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("restart", "rc"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("state", "why"):
        parser.add_argument(f"--{name}", default="", help="what SLURM says of the job")
    parser.add_argument("--errors", type=Path, help="error file of the script and of rank 0")
    parser.add_argument("--seen", type=int, default=0, help="lines in it that earlier starts wrote")
    given = parser.parse_args(arguments)
    mine, word = JobStart(given.submit, given.job, given.restart), scheduler_word(given.state, given.why)
    said = last_words(given.errors, seen=given.seen, rc=given.rc) if given.errors else ""
    try:
        again = settle(Log(open_store(given.run_root)), mine, given.rc, word=word, said=said)
    except GmmlError as fault:
        print(f"gmml: {fault}; the exit code decides", file=sys.stderr)
        return fault.exit_code
    print("requeue" if again else "nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main())
