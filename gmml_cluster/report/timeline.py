"""When a run's ranks did what: the account of goodput (docs/reference/goodput.md), laid out in time.

Each entry of the log closes a span, and the account says how many rank-seconds of it went into what. So the parts of
the timeline add up to the account by construction. Within a span between two checkpoints the log knows how much of each
kind there was and not when: the parts are drawn one after the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from gmml_cluster.run.entries import Entry
from gmml_cluster.run.fold import fold
from gmml_cluster.run.goodput import KINDS, RankTimeAccount
from gmml_cluster.run.history import History

_BY_STEPS = ("training", "data_wait", "checkpoint_stall", "evaluation", "maps", "replayed")


@dataclass(frozen=True)
class Span:
    """A stretch of time, and what the ranks did in it.

    Attributes:
        start, end: seconds since 1970.
        attempt: 0 before the first claim; a queue belongs to the attempt that it ends with.
        seconds: kind -> seconds, in the order in which they are drawn.
        slots: of the log, the first and the last entry that say so.
    """

    start: float
    end: float
    attempt: int
    ranks: int
    seconds: Mapping[str, float]
    slots: tuple[int, int]


@dataclass(frozen=True)
class DrawnSpan:
    """A span's time of one kind, where it is drawn."""

    start: float
    end: float
    kind: str
    span: Span


@dataclass(frozen=True)
class Save:
    """A checkpoint being written beside the steps.

    Attributes:
        start, end: seconds since 1970; the `commit` is its end.
    """

    start: float
    end: float
    step: int
    attempt: int
    size: int
    slot: int


def spans_of(entries: Iterable[Entry]) -> list[Span]:
    """The spans of a run, in the order of its log."""
    history, found = History(), list[Span]()
    commits: dict[tuple[int, int], int] = {}
    for entry in entries:
        before, history = history.account, fold(history, entry)
        if entry.kind == "commit" and entry.attempt is not None:
            commits[entry.fields["step"], entry.attempt] = entry.slot
        if entry.kind == "begin" and entry.fields["resumed"] is not None:
            origin = entry.fields["resumed"]
            found = _replayed(found, commits.get((origin["step"], origin["attempt"])), entry.slot)
        found += _closed(before, history.account, entry)
    return found


def under_way(history: History, now: float) -> list[Span]:
    """What the ranks of a run that is at work have done since the last entry of its log that says so."""
    account, kinds = history.account, {"starting": "starting", "steps": "unsaved"}
    span_s, kind = max(0.0, now - account.at), kinds.get(account.phase, "queued")
    waited_s = account.waited_s if kind == "queued" else 0.0
    last = max(0, history.slots - 1)
    start = account.at - waited_s
    attempt = account.attempt if kind != "queued" else 0
    return [
        Span(start, start + waited_s + span_s, attempt, max(1, account.ranks), {kind: waited_s + span_s}, (last, last))
    ]


def saves_of(entries: Iterable[Entry]) -> list[Save]:
    """The checkpoints that were written, dropped ones too."""
    return [
        Save(
            start=entry.time - float(entry.fields.get("seconds") or 0.0),
            end=entry.time,
            step=entry.fields["step"],
            attempt=entry.attempt or 0,
            size=entry.fields["bytes"],
            slot=entry.slot,
        )
        for entry in entries
        if entry.kind == "commit"
    ]


def merged(spans: Sequence[Span], most: int) -> list[Span]:
    """Fewer spans: neighbours of one attempt that both hold steps become one, in which no second is lost.

    Args:
        most: spans wanted; starts and queues stay apart, so there may be more.
    """
    found = list(spans)
    while len(found) > most:
        shorter = _in_pairs(found)
        if len(shorter) == len(found):
            break
        found = shorter
    return found


def parts_of(spans: Iterable[Span]) -> list[DrawnSpan]:
    """The spans' kinds one after the other; a queue ends where its span does."""
    found = []
    for span in spans:
        at = span.end - sum(span.seconds.values()) if "queued" in span.seconds else span.start
        for kind, seconds in span.seconds.items():
            found.append(DrawnSpan(at, at + seconds, kind, span))
            at += seconds
    return found


def _closed(before: RankTimeAccount, after: RankTimeAccount, entry: Entry) -> list[Span]:
    """What the account gained by one entry, as spans of the ranks that were there."""
    gained = {kind: after.rank_s.get(kind, 0.0) - before.rank_s.get(kind, 0.0) for kind in KINDS}
    if entry.kind == "begin":  # moves training to `replayed`, which is no time of this span
        gained |= {"training": 0.0, "replayed": 0.0}
    if entry.kind == "claim":
        # an attempt without an `end` is closed by the claim that follows it, and had ranks of its own
        left = {kind: gained.pop(kind) for kind in ("starting", "lost")}
        spans = [_span(before.at, before, left, entry), _span(after.at, after, gained, entry)]
    else:
        spans = [_span(before.at, before if before.ranks else after, gained, entry)]
    return [span for span in spans if span is not None]


def _span(at: float, account: RankTimeAccount, gained: Mapping[str, float], entry: Entry) -> Span | None:
    ranks = max(1, account.ranks)
    seconds = {kind: rank_s / ranks for kind, rank_s in gained.items() if rank_s > 0}
    if not seconds:
        return None
    total = sum(seconds.values())
    start = at - total if "queued" in seconds else at
    return Span(start, start + total, account.attempt, ranks, seconds, (entry.slot, entry.slot))


def _replayed(spans: list[Span], commit: int | None, begin: int) -> list[Span]:
    """Training behind the checkpoint that is continued was in vain: later attempts make those steps again."""
    if commit is None:
        return spans
    return [
        replace(span, seconds=_in_vain(span.seconds), slots=(span.slots[0], begin))
        if span.slots[1] > commit and span.seconds.get("training")
        else span
        for span in spans
    ]


def _in_vain(seconds: Mapping[str, float]) -> dict[str, float]:
    replayed = seconds["training"] + seconds.get("replayed", 0.0)
    return {**{kind: taken for kind, taken in seconds.items() if kind != "training"}, "replayed": replayed}


def _in_pairs(spans: Sequence[Span]) -> list[Span]:
    """Every second span joined with the one before it, where both hold nothing but what happens between two saves."""
    found: list[Span] = []
    fresh = False
    for before, span in pairwise([spans[0], *spans]):
        if found and not fresh and _join(before, span):
            found[-1] = _joined(found[-1], span)
            fresh = True
        else:
            found.append(span)
            fresh = False
    return found


def _join(one: Span, other: Span) -> bool:
    return one.attempt == other.attempt and {*one.seconds, *other.seconds} <= set(_BY_STEPS)


def _joined(one: Span, other: Span) -> Span:
    seconds = {
        kind: one.seconds.get(kind, 0.0) + other.seconds.get(kind, 0.0)
        for kind in KINDS
        if kind in one.seconds or kind in other.seconds
    }
    return Span(one.start, other.end, one.attempt, one.ranks, seconds, (one.slots[0], other.slots[1]))
