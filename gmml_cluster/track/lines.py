"""The metric lines of a run in the order of its steps, each once, as they are uploaded, and the scores of its steps."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gmml_cluster.run.entries import Entry
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Log
from gmml_cluster.run.results.evaluations import name_of
from gmml_cluster.run.root import metrics_stem, part_name
from gmml_cluster.store.protocol import NotFound, Store


@dataclass(frozen=True)
class Place:
    """How far one has read.

    Attributes:
        attempt, part: what is read next; attempt 0 before the first.
        step: the last that was passed on; -1 before the first.
        slot: of the log, from which on scores are passed on.
    """

    attempt: int = 0
    part: int = 0
    step: int = -1
    slot: int = 0


def new_figures(store: Store, log: Log, place: Place) -> Iterator[tuple[list[dict[str, Any]], Place]]:
    """As `new_lines`, with scores in the line of the step that was scored, or in one of their own where that has gone.

    A score whose step is not uploaded yet waits for it, so that steps rise.
    """
    history = log.refresh()
    entries = [entry for entry in log.read(place.slot) if entry.kind == "score" and entry.attempt is not None]
    for lines, at in new_lines(store, history, place):
        due = [entry for entry in entries if entry.fields["step"] <= at.step]
        entries = entries[len(due) :]
        place = replace(at, slot=due[-1].slot + 1 if due else place.slot)
        yield _with_scores(lines, due), place
    if due := [entry for entry in entries if entry.fields["step"] <= place.step]:
        yield _with_scores([], due), replace(place, slot=due[-1].slot + 1)


def _with_scores(lines: Sequence[dict[str, Any]], scored: Sequence[Entry]) -> list[dict[str, Any]]:
    found = {line["step"]: line for line in lines}
    for entry in scored:
        line = found.setdefault(entry.fields["step"], {"step": entry.fields["step"], "time": entry.time})
        line.update({name_of(score): score["accuracy"] for score in entry.fields["scores"]})
    return [found[step] for step in sorted(found)]


def new_lines(store: Store, history: History, place: Place) -> Iterator[tuple[list[dict[str, Any]], Place]]:
    """The lines of each part that has appeared behind a place, and the place behind them; a request a part.

    A step that a later attempt makes again is passed over: its figures are the earlier ones', by exactness.

    Args:
        store: the run root.
        history: says which attempts there are.
        place: where the last call came to.

    Raises:
        StorageError: the store does not answer.
    """
    for attempt in range(max(1, place.attempt), history.last_attempt + 1):
        if attempt != place.attempt:
            place = replace(place, attempt=attempt, part=0)
        while (text := _part(store, attempt, place.part)) is not None:
            lines = [line for line in map(json.loads, text.splitlines()) if line["step"] > place.step]
            step = lines[-1]["step"] if lines else place.step
            place = replace(place, part=place.part + 1, step=step)
            yield lines, place


def _part(store: Store, attempt: int, number: int) -> bytes | None:
    try:
        return store.get(part_name(metrics_stem(attempt), number, "jsonl"))
    except NotFound:
        return None
