"""The metric lines of a run in the order of its steps, each once, as they are uploaded."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from gmml_cluster.run.history import History
from gmml_cluster.run.root import metrics_stem, part_name
from gmml_cluster.store.protocol import NotFound, Store


@dataclass(frozen=True)
class Place:
    """How far one has read.

    Attributes:
        attempt, part: what is read next; attempt 0 before the first.
        step: the last that was passed on; -1 before the first.
    """

    attempt: int = 0
    part: int = 0
    step: int = -1


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
            place = Place(attempt, place.part + 1, step)
            yield lines, place


def _part(store: Store, attempt: int, number: int) -> bytes | None:
    try:
        return store.get(part_name(metrics_stem(attempt), number, "jsonl"))
    except NotFound:
        return None
