"""Reading what attempts publish in numbered parts: `<stem>-<number>.<suffix>`, their metric lines and their logs."""

import json
import re
from collections.abc import Iterator
from typing import Any

from gmml_cluster.errors import StorageError
from gmml_cluster.run.history import History
from gmml_cluster.store.protocol import Store

_METRICS = re.compile(r"attempts/(\d+)/metrics-(\d+)\.jsonl")
_LOG = re.compile(r"attempts/(\d+)/rank-(\d+)-(\d+)\.log")


def metric_lines(store: Store, history: History) -> list[dict[str, Any]]:
    """One line a step, by step: of the youngest attempt, and none of an attempt from where a younger one began on.

    Args:
        store: the run root.
        history: says where attempts began.

    Raises:
        StorageError: a part is damaged.
    """
    lines: dict[int, dict[str, Any]] = {}
    for attempt, name in _ordered(store, _METRICS):
        cut = history.cut(attempt)
        for line in _lines(store, name):
            if cut is None or line["step"] < cut:
                lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)]


def log_parts(store: Store, *, attempt: int, rank: int) -> list[str]:
    """Names of the parts of a rank's log, in order."""
    found = (_LOG.fullmatch(stat.name) for stat in store.list_objects(f"attempts/{attempt:04d}/rank-{rank:05d}-"))
    return [match[0] for match in sorted((m for m in found if m), key=lambda m: int(m[3]))]


def _ordered(store: Store, pattern: re.Pattern[str]) -> list[tuple[int, str]]:
    found = (pattern.fullmatch(stat.name) for stat in store.list_objects("attempts/"))
    numbers = sorted((int(match[1]), int(match[2]), match[0]) for match in found if match)
    return [(attempt, name) for attempt, _, name in numbers]


def _lines(store: Store, name: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(store.get(name).splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            where = f"{store.url}/{name}:{number}"
            raise StorageError(f"{where}: is no JSON ({error}); parts are written whole; delete the part") from error
