"""Who may append what to a run's log, and when: submits, claims, commits, ends. Each is one call of `Log.append`.

An attempt is fenced once a later one has claimed: it can append nothing, and every function here then raises Fenced.
The rules are in docs/log.md.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmml_cluster import __version__
from gmml_cluster.errors import CheckpointError, Fault, Fenced
from gmml_cluster.run.ends.causes import CAUSES
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.history import Commit, History
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.run.right_to_claim import refusal

RESOLVABLE = ("notice", "lost")
"""Causes that ranks write when they cannot know the reason; what restarts them may prove another by `cause`."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Claim:
    """An attempt that won the right to run.

    Attributes:
        attempt: its number.
        commits: checkpoints to resume from, the latest first; the first whose manifest is intact is taken.
        changed: fields outside the identity that hold for this attempt: name -> [value in spec.yaml, value now].
        pin: fields of the run's `pin`; None where this attempt is to append it.
    """

    attempt: int
    commits: tuple[Commit, ...]
    changed: Mapping[str, Any]
    pin: Mapping[str, Any] | None


def submit(
    log: Log,
    *,
    launcher: str,
    code: str,
    bounds: Mapping[str, Any],
    changed: Mapping[str, Any] | None = None,
    seen: History | None = None,
) -> str | None:
    """Append `submit`, before the scheduler is called; lifts a stop, and takes the right to claim from older ones.

    A run that lies elsewhere than its log records has been moved: the entry then records where it is now. Whether it is
    a copy of a run that still exists must have been asked before (`location.demand_in_place`).

    Args:
        log: of the run.
        launcher: name of the launcher that is to start it.
        code: SHA-256 of the code that its attempts run.
        bounds: what is asked for: profile, nodes, ranks of a node.
        changed: fields outside the identity that hold for its attempts.
        seen: the history by which it was decided to submit; None to submit whatever was appended since.

    Returns:
        The submit's token: argument and comment of the job. None where another submit came since `seen`.
    """
    fields = {"launcher": launcher, "code": code, "bounds": dict(bounds), "changed": dict(changed or {})}

    def make(history: History) -> Draft | None:
        if seen is not None and history.submitted != seen.submitted:
            return None
        moved = {"location": log.store.url} if history.location not in ("", log.store.url) else {}
        return Draft("submit", None, {**fields, **moved})

    entry = log.append(make)
    return None if entry is None else entry.token


def queued(log: Log, submit: str, job: str) -> None:
    """Append `queued`: the scheduler accepted the submit as this job."""
    _append(log, lambda history: Draft("queued", None, {"submit": submit, "job": job}))


def claim(
    log: Log,
    *,
    submit: str,
    job: str,
    restart: int,
    topology: Mapping[str, Any],
    machine: Mapping[str, Any],
    start_s: float = 0.0,
    proofs: Callable[[int], tuple[str, str] | None] = lambda attempt: None,
    claimed: Callable[[int], None] = lambda attempt: None,
) -> Claim:
    """Become the latest attempt, then append the missing `end` of older ones, and the cause of one that is known now.

    The right to claim is judged again at each slot that the claim passes. From its slot on older attempts are fenced,
    so their ends cannot be appended twice with different causes.

    Args:
        log: of the run.
        submit: token of the submit for which this job was started.
        job: the launcher's id.
        restart: how many starts of the submit came before this one.
        topology: ranks, ZeRO stage, precision, micro-batch, threads.
        machine: nodes, devices, versions; `start_s`: seconds since the process of rank 0 started.
        proofs: cause and proof of an older attempt's end, where they are known; a missing `end` is else `lost`.
        claimed: called with the attempt's number as soon as it is in the log: from then on it must get an `end`, also
            where something below fails.

    Raises:
        Fenced: this job has no right to claim, or not any more; it exits and is not started again.
    """
    fields = {"submit": submit, "job": job, "restart": restart, "topology": dict(topology), "machine": dict(machine)}
    fields |= {"start_s": start_s, "gmml_version": __version__}

    def make(history: History) -> Draft:
        refused = refusal(history, submit, job, restart)
        if refused is not None:
            raise Fenced(Fault(log.store.url, f"job {job} claims nothing: {refused}", "see gmml status"))
        return Draft("claim", history.last_attempt + 1, fields)

    attempt = _append(log, make).attempt
    assert attempt is not None
    claimed(attempt)
    history = log.refresh()
    for older in [a for a in history.attempts if a.number < attempt]:
        proved = proofs(older.number)
        if older.ended is None:
            cause, proof = proved or ("lost", "found without an end by the next attempt")
            _end(log, older.number, cause, {"proof": proof}, appender=attempt)
        elif proved is not None:
            resolve_cause(log, older.number, *proved, appender=attempt)
    history = look(log, attempt)
    changed = history.submit.changed if history.submit else {}
    return Claim(attempt, tuple(reversed(history.commits)), changed, history.pin)


def look(log: Log, attempt: int) -> History:
    """The history now, by one request where nothing is new. Its `stopped` says whether the run was stopped.

    Raises:
        Fenced: a later attempt has claimed.
    """
    history = log.refresh()
    demand_latest(log, history, attempt)
    return history


def resume(log: Log, claim: Claim, holds: Callable[[Commit], None]) -> Commit | None:
    """The latest commit whose checkpoint is intact; None where there is no commit.

    For a damaged one there is a warning in this process' log, and the one before is taken; but first the run's log is
    read again, as a later attempt may have dropped it, and then this one is fenced.

    Args:
        log: of the run.
        claim: this attempt's.
        holds: raises CheckpointError where the checkpoint is damaged.

    Raises:
        CheckpointError: there are commits, and every one is damaged.
        Fenced: a later attempt has claimed.
    """
    damaged: list[str] = []
    for commit in claim.commits:
        try:
            holds(commit)
        except CheckpointError as error:
            look(log, claim.attempt)
            _log.warning("%s", error)
            damaged.append(str(error))
        else:
            return commit
    if damaged:
        problem = f"every commit is damaged: {'; '.join(damaged)}"
        raise CheckpointError(Fault(log.store.url, problem, "restore one of them"))
    return None


def begin(
    log: Log,
    attempt: int,
    *,
    resumed: Commit | None,
    step: int,
    micro: int,
    init: Mapping[str, Any] | None = None,
    **spent: float,
) -> None:
    """Append `begin`: the attempt's first step, and the commit that it continues.

    Args:
        attempt: this one.
        resumed: the run's own commit; None at a fresh start.
        step: the first it makes.
        micro: images of a micro-batch of a rank.
        init: run, step and what of another run's commit that a fresh start took; None where it took none.
        spent: seconds since the process started: `start_s` up to this entry, and of them `load_s` and `suspended_s`.
    """
    origin = {"step": resumed.step, "attempt": resumed.attempt} if resumed else None
    fields = {"resumed": origin, "init": dict(init) if init else None, "step": step, "micro": micro, **spent}
    _append(log, _by(log, attempt, Draft("begin", attempt, fields)))


def pin(log: Log, attempt: int, fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Append `pin` if the run has none yet.

    Returns:
        The fields of the run's `pin`, this one or an earlier one: they hold for the run for ever.
    """

    def make(history: History) -> Draft | None:
        demand_latest(log, history, attempt)
        return Draft("pin", attempt, fields) if history.pin is None else None

    log.append(make)
    pinned = log.refresh().pin
    assert pinned is not None
    return pinned


def repin(log: Log, attempt: int, corpora: str, shards: int) -> None:
    """Append that so many shards have another size or version than was pinned, and hold the same samples.

    Args:
        corpora: digest of the corpora with their present sizes and versions.
    """
    _append(log, _by(log, attempt, Draft("pin", attempt, {"corpora": corpora, "repinned": shards})))


def commit(
    log: Log,
    attempt: int,
    *,
    step: int,
    manifest: str,
    size: int,
    seconds: float,
    skipped: Sequence[int] = (),
    bad: Sequence[int] = (),
    unchecked: int = 0,
    **spent: float,
) -> None:
    """Append `commit`: the checkpoint of this step exists from now on.

    Args:
        attempt: this one.
        step: the last whose update is in the checkpoint.
        manifest: SHA-256 of its manifest, which is written already.
        size: bytes of all its files.
        seconds: how long the save took.
        skipped: steps of this attempt whose update was skipped, since the commit before.
        bad: distinct bad samples of each corpus, up to this step.
        unchecked: samples that were read without a CRC, up to this step.
        spent: `data_wait_s` of the steps since the commit before, `stall_s` of this save, and
            `suspended_s` of the attempt so far (docs/log.md).
    """
    fields = {"step": step, "manifest": manifest, "bytes": size, "seconds": seconds}
    fields |= {"skipped": list(skipped), "bad": list(bad), "unchecked": unchecked, **spent}
    _append(log, _by(log, attempt, Draft("commit", attempt, fields)))


def drop(log: Log, attempt: int, dropped: Commit) -> None:
    """Append `drop`: from now on the checkpoint does not exist, and its files may be deleted."""
    fields = {"step": dropped.step, "of": dropped.attempt}
    _append(log, _by(log, attempt, Draft("drop", attempt, fields)))


def end(log: Log, attempt: int, cause: str, **details: Any) -> str:
    """Append `end`, unless the attempt has one.

    Args:
        log: of the run.
        attempt: the one that ends.
        cause: one of `Cause`.
        details: what else is known: `step` (the last made), `message`, `rank`, `host`, `skipped`, `proof`, `micro`,
            `suspended_s`.

    Returns:
        The cause in the attempt's `end`: the first that was appended counts.

    Raises:
        Fenced: a later attempt has claimed; it appends the end of this one.
    """
    _end(log, attempt, cause, details, appender=attempt)
    ended = log.refresh().attempt(attempt)
    assert ended is not None
    assert ended.ended is not None
    return ended.ended


def start_failed(log: Log, submit: str, **details: Any) -> None:
    """Append that a job of this submit ended without a claim; nothing where there is a later submit by now."""

    def make(history: History) -> Draft | None:
        if history.submit is None or history.submit.token != submit:
            return None
        return Draft("end", None, {"cause": "start_failed", "submit": submit, **details})

    log.append(make)


def resolve_cause(
    log: Log, attempt: int, cause: str, proof: str, *, node: str | None = None, appender: int | None = None
) -> None:
    """Append `cause`: why an attempt ended of which its ranks knew only a notice or a lost peer, and the node to blame.

    Does nothing for any other `end`, or where a `cause` was appended before. The appender is the latest attempt, if
    that is another one.
    """
    _known(cause)

    def make(history: History) -> Draft | None:
        demand_latest(log, history, appender or attempt)
        ended = history.attempt(attempt)
        if ended is None or ended.ended not in RESOLVABLE or ended.resolved:
            return None
        return Draft("cause", None, {"of": attempt, "cause": cause, "proof": proof, **({"node": node} if node else {})})

    log.append(make)


def stop(log: Log, reason: str) -> None:
    """Append `stop`: the running attempt commits once more and ends, and no job claims until the next submit."""

    def make(history: History) -> Draft | None:
        return Draft("stop", None, {"reason": reason}) if history.stopped is None else None

    log.append(make)


def score(
    log: Log,
    file: str,
    digest: str,
    *,
    step: int,
    scores: Sequence[Mapping[str, Any]],
    attempt: int | None = None,
    seconds: float | None = None,
) -> None:
    """Append `score`: what an evaluation found, in words of its document; it changes nothing of what is computed.

    Args:
        log: of the run.
        file: name of the document within the run root, which is written already.
        digest: SHA-256 of it.
        step: of the checkpoint that was scored; -1 for the network before its first step.
        scores: the main ones.
        attempt: that scored its own weights; None for `gmml eval`, which no attempt fences.
        seconds: that this attempt spent on it instead of training.
    """
    fields = {"file": file, "sha256": digest, "step": step, "scores": [dict(each) for each in scores]}
    if attempt is None:
        log.append(lambda history: Draft("score", None, fields))
    else:
        _append(log, _by(log, attempt, Draft("score", attempt, {**fields, "seconds": seconds})))


def _end(log: Log, attempt: int, cause: str, details: Mapping[str, Any], *, appender: int) -> None:
    _known(cause)

    def make(history: History) -> Draft | None:
        demand_latest(log, history, appender)
        ended = history.attempt(attempt)
        if ended is None or ended.ended is not None:
            return None
        return Draft("end", attempt, {"cause": cause, **details})

    log.append(make)


def _by(log: Log, attempt: int, draft: Draft) -> Callable[[History], Draft]:
    def make(history: History) -> Draft:
        demand_latest(log, history, attempt)
        return draft

    return make


def _append(log: Log, make: Callable[[History], Draft]) -> Entry:
    entry = log.append(make)
    assert entry is not None
    return entry


def demand_latest(log: Log, history: History, attempt: int) -> None:
    """Raise Fenced where a later attempt than the appender's has claimed."""
    if history.last_attempt > attempt:
        problem = f"attempt {attempt} is fenced, for attempt {history.last_attempt} has claimed"
        raise Fenced(Fault(log.store.url, problem))


def _known(cause: str) -> None:
    if cause not in CAUSES:
        raise ValueError(f"cause {cause!r} is none of {', '.join(CAUSES)}")
