"""Entries of a run's log: small JSON documents, one a slot. `docs/log.md` lists the fields of each kind."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from gmml_cluster.errors import Fault, StorageError

Kind = Literal[
    "open",
    "submit",
    "queued",
    "claim",
    "begin",
    "pin",
    "commit",
    "map",
    "drop",
    "end",
    "cause",
    "exclude",
    "stop",
    "score",
]
SUMMED = ("claim", "commit", "end")
"""Kinds that carry the fold of all entries before them, so that readers need only the tail of the log."""
_HEAD = ("slot", "kind", "attempt", "run", "token", "time")


@dataclass(frozen=True)
class Entry:
    """One document of the log.

    Attributes:
        slot: index in the log, from 0, dense.
        kind: one of `Kind`; readers ignore kinds that they do not know.
        attempt: who wrote it, or, of an `end`, which attempt ended; None for a person.
        run: token of the run, drawn for its `open`.
        token: drawn for this entry, kept over all its retries.
        time: seconds since 1970 by the writer's clock; orders nothing.
        fields: the kind's own.
    """

    slot: int
    kind: str
    attempt: int | None
    run: str
    token: str
    time: float
    fields: Mapping[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """The entry as one flat mapping, as it is stored and shown."""
        return {**{name: getattr(self, name) for name in _HEAD}, **self.fields}

    def encode(self) -> bytes:
        """The bytes that are stored."""
        return json.dumps(self.document(), separators=(",", ":")).encode()


def decode(data: bytes, where: str) -> Entry:
    """The entry that was stored.

    Raises:
        StorageError: the bytes are no entry; `where` names the object.
    """
    try:
        document = json.loads(data)
        head = {name: document.pop(name) for name in _HEAD}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        problem = f"is no log entry ({error}); slots are written once and never changed"
        raise StorageError(Fault(where, problem, "restore it from a backup of the run")) from error
    return Entry(**head, fields=document)


def slot_name(slot: int) -> str:
    """Name of a slot within the run root."""
    return f"log/{slot:08d}.json"
