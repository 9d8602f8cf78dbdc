"""A run's log: slots that are created exactly once. Reading needs only the tail; appending is one rule."""

import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from gmml_cluster.errors import Fault, Fenced, StorageError
from gmml_cluster.run.entries import SUMMED, Entry, decode, slot_name
from gmml_cluster.run.fold import fold
from gmml_cluster.run.history import History, from_sum
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.store.verified import read_verified

_SLOT = re.compile(r"log/(\d{8})\.json")


@dataclass(frozen=True)
class Draft:
    """What an entry is to contain; the log adds slot, tokens, time and `sum`.

    Attributes:
        attempt: number that the entry carries.
        run: the run's token, in an `open`; otherwise the log knows it.
    """

    kind: str
    attempt: int | None
    fields: Mapping[str, Any] = field(default_factory=dict)
    run: str = ""


class Log:
    """The log of one run, as far as this process has read it. Thread-safe.

    Args:
        store: the run root.
    """

    def __init__(self, store: Store) -> None:
        self.store = store
        self._history = History()
        self._lock = threading.RLock()

    def read(self, start: int = 0) -> Iterator[Entry]:
        """The entries from a slot on, to the first free one."""
        while True:
            entry = self._entry(start)
            if entry is None:
                return
            yield entry
            start += 1

    def refresh(self) -> History:
        """The history up to the first free slot; one request where nothing is new.

        Raises:
            Fenced: another run's entries lie here now.
        """
        with self._lock:
            self._advance(token=None)
            return self._history

    def opened(self) -> Mapping[str, Any]:
        """Fields of `open`, which is slot 0; empty where there is none. One request, unlike `refresh` on a long log."""
        with self._lock:
            if self._history.slots:
                return self._history.opened
        first = self._entry(0)
        return first.fields if first is not None and first.kind == "open" else {}

    def append(self, make: Callable[[History], Draft | None]) -> Entry | None:
        """Create the first free slot. A lost reply does no harm: the entry is recognised by its token.

        A create that failed is read back once and not sent again, as the store has retried it for its whole deadline.

        Args:
            make: called with the history before each slot that is tried, for what was read on the way may change what
                is to be written; None means that nothing is. It raises Fenced where the appender must not continue.

        Returns:
            The entry that was written; None where `make` returned None.
        """
        token, failed, tried = secrets.token_hex(16), None, False
        with self._lock:
            while True:
                slot = self._history.slots
                written = self._advance(token if tried else None)
                if written is not None:
                    return written
                if tried and self._history.slots == slot:
                    problem = "what was written is gone again; the run was removed"
                    raise failed or Fenced(Fault(self.store.url, problem))
                draft = make(self._history)
                if draft is None:
                    return None
                failed, tried = self._create(self._made(draft, token)), True

    def _create(self, entry: Entry) -> StorageError | None:
        """Write the entry into its slot; returns the error where the slot is taken or the outcome is unknown."""
        if entry.slot:
            self._demand_open()
        try:
            self.store.create(slot_name(entry.slot), entry.encode())
        except StorageError as error:
            return error
        return None

    def _demand_open(self) -> None:
        """A removal deletes slot 0 last: a slot created after that would belong to a run that no longer exists."""
        first = self._entry(0)
        if first is None or first.run != self._history.run:
            raise Fenced(Fault(self.store.url, "the run that was here is removed; its log takes no more entries"))

    def _advance(self, token: str | None) -> Entry | None:
        """Read on to the first free slot, or to the entry with this token, whose reply was lost.

        With a token from slot to slot: an `open` without a reply may lie behind entries of others by now, and the last
        `sum` would skip it.
        """
        if token is None and not self._history.slots:
            self._history = self._tail()
        for entry in self.read(self._history.slots):
            if self._history.run and entry.run != self._history.run:
                where = f"{self.store.url}/{slot_name(entry.slot)}"
                raise Fenced(Fault(where, "belongs to another run; the one of this process was removed"))
            self._history = fold(self._history, entry)
            if entry.token == token:
                return entry
        return None

    def _made(self, draft: Draft, token: str) -> Entry:
        run = self._history.run or draft.run
        if not run:
            problem = "its log is empty; the run was removed, or its submission interrupted"
            raise Fenced(Fault(self.store.url, problem, "delete it with gmml rm"))
        fields = dict(draft.fields)
        if draft.kind in SUMMED:
            fields["sum"] = self._history.to_sum()
        return Entry(self._history.slots, draft.kind, draft.attempt, run, token, time.time(), fields)

    def _entry(self, slot: int) -> Entry | None:
        name = slot_name(slot)
        where = f"{self.store.url}/{name}"
        try:
            # one damaged answer of a store must not end a run: only bytes that stay wrong are a damaged slot
            data = read_verified(lambda: self.store.get(name), lambda data: _check(data, where))
        except NotFound:
            return None
        return decode(data, where)

    def _tail(self) -> History:
        """The history before the last entry with a `sum` of this version; the empty one where there is none."""
        for slot in range(max(_slots(self.store), default=-1), -1, -1):
            entry = self._entry(slot)
            known = _sum_of(entry) if entry else None
            if known is not None:
                return known
        return History()


def check(log: Log) -> list[str]:
    """Fold from slot 0, and compare with every `sum` of this version on the way; a line for each fault.

    A slot that is missing below later ones is a fault too: appenders that read from below it would write into the hole,
    beside entries that they have not seen. Beyond a hole nothing can be compared.
    """
    listed = _slots(log.store)  # before the entries: what is appended meanwhile leaves no hole below the last listed
    history, faults = History(), []
    for entry in log.read():
        known = _sum_of(entry)
        if known is not None and known != history:
            problem = "its sum is not the fold of the slots before it"
            faults.append(_faulty(log, entry.slot, problem, "the log was edited or damaged"))
        history = fold(history, entry)
    for slot in sorted(set(range(history.slots, max(listed, default=0))) - listed):
        problem = f"is missing, though slots up to {max(listed)} exist"
        faults.append(_faulty(log, slot, problem, "restore it from a backup of the run"))
    return faults


def _faulty(log: Log, slot: int, problem: str, hint: str) -> str:
    return str(Fault(f"{log.store.url}/{slot_name(slot)}", problem, hint))


def _check(data: bytes, where: str) -> None:
    decode(data, where)


def _sum_of(entry: Entry) -> History | None:
    return from_sum(entry.fields["sum"]) if "sum" in entry.fields else None


def _slots(store: Store) -> set[int]:
    """Numbers of the slots that exist, by one listing."""
    names = (_SLOT.fullmatch(found.name) for found in store.list_objects("log/"))
    return {int(name[1]) for name in names if name}
