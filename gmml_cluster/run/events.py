"""What of a run's log people want to hear of at once: a function of the log."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from gmml_cluster.run.entries import Entry

Kind = Literal["finished", "failed", "gave_up", "stopped", "node_avoided"]


@dataclass(frozen=True)
class Event:
    """One thing that happened.

    Attributes:
        slot: of the log entry that says so.
        time: seconds since 1970, of that entry.
        text: one or two sentences for people.
        attempt: which one ended, where one did.
    """

    kind: Kind
    slot: int
    time: float
    text: str
    attempt: int | None = None


def events(entries: Iterable[Entry], name: str, *, over: bool) -> Iterator[Event]:
    """The events of the latest submit, in order.

    Args:
        entries: of the log, in order, from anywhere on.
        name: of the run.
        over: whether nothing starts the run again by itself; its last end is then a failure, if it is not explained.
    """
    found: list[Event] = []
    last: Event | None = None
    for entry in entries:
        if entry.kind == "submit":
            found, last = [], None
        elif entry.kind == "claim":
            last = None
        elif entry.kind == "end":
            last = _of_end(entry, name)
            found += [last] if last.kind == "finished" else []
        elif entry.kind == "cause" and last is not None and entry.fields["of"] == last.attempt:
            last = replace(last, text=_failed(entry, name))  # what ended it, which its ranks could not know
        elif entry.kind in _OF:
            found.append(_OF[entry.kind](entry, name))
    explained = any(event.kind in ("finished", "gave_up", "stopped") for event in found)
    yield from found
    if over and last is not None and not explained:
        yield last


def _of_end(entry: Entry, name: str) -> Event:
    cause, attempt = entry.fields["cause"], entry.attempt
    if cause == "finished":
        text = f"{name} has finished: attempt {attempt} made its last step, {entry.fields.get('step')}."
        return Event("finished", entry.slot, entry.time, text, attempt)
    return Event("failed", entry.slot, entry.time, _failed(entry, name), attempt)


def _failed(entry: Entry, name: str) -> str:
    cause = _with(entry.fields["cause"], entry.fields)
    return f"{name} has ended and is not started again: {cause}. `gmml resume {name}` continues it."


def _of_stop(entry: Entry, name: str) -> Event:
    reason = entry.fields["reason"]
    if not entry.fields.get("gave_up"):
        return Event("stopped", entry.slot, entry.time, f"{name} was stopped: {reason}. `gmml resume {name}` lifts it.")
    text = f"{name} is not started again, its retries are spent: {reason}. `gmml resume {name}` continues it."
    return Event("gave_up", entry.slot, entry.time, text)


def _of_exclude(entry: Entry, name: str) -> Event:
    text = f"{name} avoids node {entry.fields['node']} from now on: {entry.fields['reason']}."
    return Event("node_avoided", entry.slot, entry.time, text)


_OF = {"stop": _of_stop, "exclude": _of_exclude}


def _with(cause: str, fields: Any) -> str:
    message = fields.get("message") or fields.get("proof")
    return f"{cause}; {message}" if message else cause
