"""The errors of all ranks of an attempt that failed: the original first, then those that it caused, equal ones grouped.

Rank 0 writes them beside the attempt's logs before its `end`; the `end` itself holds the original's message alone.
"""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gmml_cluster.outputs.status import RankErrorsOutput
from gmml_cluster.store.protocol import NotFound, Store

VERSION = 1
_NUMBERS = re.compile(r"0x[0-9a-f]+|\d+")
_KEPT = ("kind", "cause", "message", "traceback")


def grouped(errors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Errors that differ in nothing but numbers, such as ports, as one.

    Args:
        errors: as `train.ranks.causes.describe` makes them, the original first.

    Returns:
        Of each group `ranks`, `hosts`, and `kind`, `cause`, `message`, `traceback` of its first.
    """
    groups: dict[tuple[str, ...], dict[str, Any]] = {}
    for error in errors:
        key = (error["kind"], error["cause"], _NUMBERS.sub("#", error["message"]))
        group = groups.setdefault(key, {"ranks": [], "hosts": [], **{name: error[name] for name in _KEPT}})
        group["ranks"].append(error["rank"])
        group["hosts"] += [error["host"]] if error["host"] not in group["hosts"] else []
    return list(groups.values())


def write(store: Store, attempt: int, errors: Sequence[Mapping[str, Any]]) -> None:
    """Keep the errors of an attempt."""
    document = {"version": VERSION, "errors": grouped(errors)}
    store.put(_name(attempt), json.dumps(document).encode())


def read(store: Store, attempt: int) -> list[RankErrorsOutput]:
    """The groups that `write` kept; none where the ranks could keep nothing."""
    try:
        document = json.loads(store.get(_name(attempt)))
    except (NotFound, ValueError):
        return []
    return list(document["errors"]) if document.get("version") == VERSION else []


def lines(groups: Sequence[Mapping[str, Any]]) -> list[str]:
    """The errors for a person: the original's traceback, then a line a group of those that followed from it."""
    if not groups:
        return []
    first, *others = groups
    found = [f"{_who(first)}:", *(f"  {line}" for line in str(first["traceback"]).rstrip().splitlines())]
    for group in others:
        same = "also" if group["kind"] == first["kind"] else "in consequence"
        found.append(f"{_who(group)}, {same}: {str(group['message']).partition(chr(10))[0]}")
    return found


def _who(group: Mapping[str, Any]) -> str:
    ranks = list(group["ranks"])
    named = ", ".join(map(str, ranks[:8])) + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")
    return f"rank{'s' if len(ranks) > 1 else ''} {named} on {', '.join(group['hosts'][:4])}"


def _name(attempt: int) -> str:
    return f"attempts/{attempt:04d}/errors.json"
