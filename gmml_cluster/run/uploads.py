"""Reading what ranks upload in numbered parts, `<stem>-<number>.<suffix>`: metric lines and logs."""

import json
import re
from typing import Any

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.run.history import History
from gmml_cluster.run.root import metrics_stem, part_name
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.store.verified import read_verified

_METRICS = re.compile(r"attempts/(\d+)/metrics-(\d+)\.jsonl")
_LOG = re.compile(r"attempts/(\d+)/rank-(\d+)-(\d+)\.log")

Line = dict[str, Any]
"""Figures of one step, as `gmml metrics --json` prints them."""


def metric_lines(store: Store, history: History) -> list[Line]:
    """One line a step, by step: of the latest attempt, and none of an attempt from where a later one began on.

    Args:
        store: the run root.
        history: knows where attempts began.

    Raises:
        StorageError: a part is damaged.
    """
    lines: dict[int, Line] = {}
    for attempt, name in _metric_parts(store, "attempts/"):
        cut = history.cut(attempt)
        for line in _lines(store, name):
            if cut is None or line["step"] < cut:
                lines[line["step"]] = line
    return [lines[step] for step in sorted(lines)]


def last_metric_lines(store: Store, attempt: int) -> list[Line]:
    """The lines of the last part that an attempt uploaded; none where there is no part.

    Parts are numbered without gaps, so the last is found by bisection and read alone: an attempt of a week has twenty
    thousand, and `gmml status` asks this of every run that trains.

    Raises:
        StorageError: the part is damaged.
    """

    def exists(number: int) -> bool:
        try:
            store.stat(part_name(metrics_stem(attempt), number, "jsonl"))
        except NotFound:
            return False
        return True

    missing = 0
    while exists(missing):
        missing = 2 * missing + 1
    last = (missing - 1) // 2  # the last number that was found to exist
    while missing - last > 1:
        middle = (last + missing) // 2
        last, missing = (middle, missing) if exists(middle) else (last, middle)
    return _lines(store, part_name(metrics_stem(attempt), last, "jsonl")) if missing else []


def metric_part_names(store: Store) -> list[str]:
    """Names of the parts of all attempts' metric lines, in order."""
    return [name for _, name in _metric_parts(store, "attempts/")]


def log_parts(store: Store, *, attempt: int, rank: int) -> list[str]:
    """Names of the parts of a rank's log, in order."""
    found = (_LOG.fullmatch(stat.name) for stat in store.list_objects(f"attempts/{attempt:04d}/rank-{rank:05d}-"))
    return [match[0] for match in sorted((m for m in found if m), key=lambda m: int(m[3]))]


def _metric_parts(store: Store, prefix: str) -> list[tuple[int, str]]:
    """Attempt and name of each part, in the order in which they were uploaded."""
    found = (_METRICS.fullmatch(stat.name) for stat in store.list_objects(prefix))
    numbers = sorted((int(match[1]), int(match[2]), match[0]) for match in found if match)
    return [(attempt, name) for attempt, _, name in numbers]


def _lines(store: Store, name: str) -> list[Line]:
    def check(data: bytes) -> None:
        for number, line in enumerate(data.splitlines(), 1):
            try:
                json.loads(line)
            except ValueError as error:
                where, problem = f"{store.url}/{name}:{number}", f"is no JSON ({error}); parts are written whole"
                raise StorageError(Fault(where, problem, "delete the part")) from error

    return [json.loads(line) for line in read_verified(lambda: store.get(name), check).splitlines()]
