"""Where the time of a run's ranks went: rank-seconds by kind, which add up to all that they were there or awaited.

A function of the log alone, added to entry by entry, so that the fold has it and `gmml status` reads no metrics.
docs/reference/goodput.md defines the kinds.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from gmml_cluster.run.entries import Entry

KINDS = (
    "queued",
    "starting",
    "restoring",
    "training",
    "data_wait",
    "checkpoint_stall",
    "evaluation",
    "maps",
    "suspended",
    "replayed",
    "lost",
    "unsaved",
)
Phase = Literal["nothing", "queued", "starting", "steps", "left"]


@dataclass(frozen=True)
class RankTimeAccount:
    """Rank-seconds by kind, up to the moment `at`.

    Attributes:
        at: seconds since 1970 up to which everything is accounted for.
        phase: what passes from then on. `nothing`: no rank is wanted; `queued`: a submit waits for its first claim, or
            `left`, the job for the next one; `starting`: ranks are there and make no step; `steps`: they do.
        ranks: of the attempt that is at work; 0 where none is.
        attempt: its number.
        waited_s: seconds of the queue up to `at` whose number of ranks only the next claim has.
        resubmitted: when a submit came while an attempt had no `end`; None where none did.
        beside_s: seconds since `at` that went into no step, by kind: evaluations and passes that make maps.
        rank_s: kind -> rank-seconds; `unsaved` is only in what `accounted` returns.
        suspended_s: seconds for which the attempt at work was stopped by its scheduler, by its last entry that says so.
        last_step: of the latest checkpoint of the attempt at work; None before its first.
    """

    at: float = 0.0
    phase: Phase = "nothing"
    ranks: int = 0
    attempt: int = 0
    waited_s: float = 0.0
    resubmitted: float | None = None
    beside_s: Mapping[str, float] = field(default_factory=dict)
    rank_s: Mapping[str, float] = field(default_factory=dict)
    suspended_s: float = 0.0
    last_step: int | None = None


def add(account: RankTimeAccount, entry: Entry, trained: float | None = None) -> RankTimeAccount:
    """The account with one more entry of the log.

    Args:
        trained: of a `begin` that continues a checkpoint: the rank-seconds of training up to that checkpoint.
    """
    change = _CHANGES.get(entry.kind)
    if entry.kind == "begin":
        return _begin(account, entry, trained)
    return change(account, entry) if change else account


def accounted(account: RankTimeAccount, now: float, *, at_work: bool, ranks: int) -> dict[str, float]:
    """Rank-seconds by kind up to now; every kind is there, and zero where nothing was.

    Args:
        now: seconds since 1970.
        at_work: whether an attempt lives, or a job is queued or about to start. Otherwise nothing passes any more, and
            what an attempt without an `end` did last is known only to the next one.
        ranks: how many a queued job asks for.
    """
    span = max(0.0, now - account.at) if at_work else 0.0
    found = {kind: account.rank_s.get(kind, 0.0) for kind in KINDS}
    if account.phase == "starting":
        found["starting"] += span * account.ranks
    elif account.phase == "steps":
        found["unsaved"] += span * account.ranks
    else:
        found["queued"] += (account.waited_s + span) * ranks
    return found


def _submit(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
    """A request: the queue begins, unless ranks are at work or an earlier request waits already."""
    if account.phase in ("starting", "steps"):
        resubmitted = account.resubmitted if account.resubmitted is not None else entry.time
        return replace(account, resubmitted=resubmitted)
    if account.phase == "queued":
        return account
    return replace(account, at=max(account.at, entry.time), phase="queued")


def _claim(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
    """Ranks have started: what was the queue ends at the start of their processes."""
    topology = entry.fields.get("topology") or entry.fields.get("layout") or {}
    ranks = int(topology.get("ranks") or 1)
    began = max(account.at, entry.time - float(entry.fields.get("start_s") or 0.0))
    account = _lost(account, began)
    waited = account.waited_s + began - account.at
    assert entry.attempt is not None
    return replace(
        _with(account, {"queued": waited * ranks}),
        at=began,
        phase="starting",
        ranks=ranks,
        attempt=entry.attempt,
        waited_s=0.0,
        suspended_s=0.0,
        last_step=None,
    )


def _lost(account: RankTimeAccount, until: float) -> RankTimeAccount:
    """Close an attempt that wrote no `end`: nobody saw when its ranks left.

    Where a person submitted again, the ranks are taken to be gone by then.
    """
    if account.phase not in ("starting", "steps"):
        return account
    ended = until if account.resubmitted is None else min(until, max(account.at, account.resubmitted))
    kind = "starting" if account.phase == "starting" else "lost"
    return _leave(_with(account, {kind: (ended - account.at) * account.ranks}), ended)


def _begin(account: RankTimeAccount, entry: Entry, trained: float | None) -> RankTimeAccount:
    if entry.attempt != account.attempt:
        return account
    span = max(0.0, entry.time - account.at)
    taken = {"restoring": float(entry.fields.get("load_s") or 0.0), **_suspended(account, entry)}
    account = _split(_noted(account, entry), span, taken, "starting")
    again = 0.0 if trained is None else max(0.0, account.rank_s.get("training", 0.0) - trained)
    account = _with(account, {"training": -again, "replayed": again})
    return replace(account, at=account.at + span, phase="steps", beside_s={})


def _commit(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
    """A checkpoint: from its copy on the next one counts, so that what its save took is time of the steps beside it."""
    if entry.attempt != account.attempt or account.phase != "steps":
        return account
    copied = max(account.at, entry.time - float(entry.fields.get("seconds") or 0.0))
    span = copied - account.at
    taken = {
        **account.beside_s,
        "data_wait": float(entry.fields.get("data_wait_s") or 0.0),
        "checkpoint_stall": float(entry.fields.get("stall_s") or 0.0),
        **_suspended(account, entry),
    }
    account = _noted(account, entry)
    return replace(_split(account, span, taken, "training"), at=copied, beside_s={}, last_step=entry.fields["step"])


def _beside(kind: str) -> Any:
    def change(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
        seconds = float(entry.fields.get("seconds") or 0.0)
        if entry.attempt != account.attempt or account.phase != "steps" or not seconds:
            return account
        return replace(account, beside_s={**account.beside_s, kind: account.beside_s.get(kind, 0.0) + seconds})

    return change


def _end(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
    """An attempt leaves. Where its last step is saved, the rest was the save; else it is made again."""
    if entry.attempt is None:
        return _start_failed(account, entry)
    if entry.attempt != account.attempt or account.phase not in ("starting", "steps"):
        return account
    ended = max(account.at, entry.time)
    span, step = ended - account.at, entry.fields.get("step")
    saved = step is not None and step == account.last_step
    rest = "starting" if account.phase == "starting" else "checkpoint_stall" if saved else "replayed"
    return _leave(_split(account, span, {**account.beside_s, **_suspended(account, entry)}, rest), ended)


def _suspended(account: RankTimeAccount, entry: Entry) -> dict[str, float]:
    """Seconds for which the ranks were stopped since the attempt's entry before; entries have those of all of it."""
    return {"suspended": max(0.0, float(entry.fields.get("suspended_s") or 0.0) - account.suspended_s)}


def _noted(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
    return replace(account, suspended_s=max(account.suspended_s, float(entry.fields.get("suspended_s") or 0.0)))


def _split(account: RankTimeAccount, span: float, taken: Mapping[str, float], rest: str) -> RankTimeAccount:
    """Seconds of the present ranks by kind, and what is left of the span as `rest`.

    No kind gets more than there is: clocks are set, and an evaluation may reach into the next span.
    """
    total = sum(taken.values())
    share = min(1.0, span / total) if total > 0 else 0.0
    account = _with(account, {kind: seconds * share * account.ranks for kind, seconds in taken.items()})
    return _with(account, {rest: max(0.0, span - total) * account.ranks})


def _leave(account: RankTimeAccount, ended: float) -> RankTimeAccount:
    resubmitted = account.resubmitted
    phase: Phase = "left" if resubmitted is None else "queued"
    return replace(account, at=ended, phase=phase, ranks=0, beside_s={}, resubmitted=None)


def _start_failed(account: RankTimeAccount, entry: Entry) -> RankTimeAccount:
    """A start that claimed nothing: it was awaited until now."""
    if account.phase not in ("queued", "left"):
        return account
    at = max(account.at, entry.time)
    return replace(account, waited_s=account.waited_s + at - account.at, at=at, phase="left")


def _with(account: RankTimeAccount, more: Mapping[str, float]) -> RankTimeAccount:
    added = {kind: account.rank_s.get(kind, 0.0) + seconds for kind, seconds in more.items() if seconds}
    return replace(account, rank_s={**account.rank_s, **added})


_CHANGES = {
    "submit": _submit,
    "claim": _claim,
    "commit": _commit,
    "score": _beside("evaluation"),
    "map": _beside("maps"),
    "end": _end,
}
