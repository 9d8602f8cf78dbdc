"""Blocks of shards on the node's own disk, for all its ranks and for all runs that name the same folder.

What is not there is read from the corpus' store as a whole block and kept. Where there is no room, what is needed last
by this run's order makes room, if that is later than the new block is needed (Belady's rule with bypass). No failure of
the folder is more than a warning: the bytes then come from the store, as without a cache.
"""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Protocol

from gmml_cluster.data.corpus.listing import split_url
from gmml_cluster.data.corpus.pinned import PinnedShard
from gmml_cluster.data.node_cache.folder import CacheFolder, Refusal, UnwrittenFile
from gmml_cluster.data.node_cache.plan import name_of
from gmml_cluster.data.reader.reads import BLOCK_BYTES
from gmml_cluster.store.open import scheme_of

_KEPT_SHARE = 32
"""One of so many entries is kept as a candidate behind each look at all of them."""
_WAIT_S = 30.0
"""For a block that another thread or process is reading from the store."""
_FIRST_POLL_S, _LONGEST_POLL_S = 0.002, 0.05
_TRIES = 3
_REST_S = 10.0
"""Nothing is written for so long after a failure of the folder: a full disk fails at every block."""

Fetch = Callable[[str, int, int], bytes]
"""Reads bytes of a shard from its store: URL, start, length."""

_log = logging.getLogger(__name__)


class UsePlan(Protocol):
    """Says when entries are needed (`NodeUsePlan`)."""

    def next_steps(self, names: Sequence[str], now: int) -> list[int | None]: ...


@dataclass
class CacheFigures:
    """What a cache did."""

    hit_bytes: int = 0
    """Bytes asked for that lay in the folder."""
    missed_bytes: int = 0
    """Bytes asked for that did not."""
    faults: int = 0
    """Failures of the folder, and entries that were damaged."""


class _Candidate(NamedTuple):
    """An entry that may make room. Of other corpora: the longest there first; of the run's: the last needed first."""

    foreign: bool
    last: int
    name: str

    def is_later(self, other: "_Candidate") -> bool:
        return self[:2] > other[:2]


class NodeCache:
    """A rank's view of its node's cache; thread-safe.

    Args:
        folder: on the node's own disk; made if it is not there.
        limit_bytes: of all entries together; an entry counts as a whole block.
        plan: when the node's ranks need parts of shards.
        block_bytes: of an entry, but for the last of its shard.

    Attributes:
        step: the step that the ranks are at.
    """

    def __init__(self, folder: Path, limit_bytes: int, plan: UsePlan, *, block_bytes: int = BLOCK_BYTES) -> None:
        self.step = 0
        self._plan, self._block_bytes = plan, block_bytes
        self._folder = CacheFolder(folder, limit_bytes // block_bytes)
        self._candidates: list[_Candidate] = []
        self._in_vain: tuple[int, int] | None = None
        self._looking, self._counting = threading.Lock(), threading.Lock()
        self._rests_until = 0.0
        self._figures, self._warned = CacheFigures(), set[int | None]()
        self._on_another_disk = lru_cache(256)(self._compare_disks)
        try:
            self._folder.recount()
        except OSError as error:
            self._count_fault(error)

    def serves(self, shard: PinnedShard) -> bool:
        """Whether parts of the shard are kept: where each sample has a checksum, and the shard is not on this disk."""
        url = shard.file.url
        return bool(shard.crcs) and (scheme_of(url) != "file" or self._on_another_disk(split_url(url)[0]))

    def read(self, shard: PinnedShard, start: int, length: int, fetch: Fetch) -> bytes:
        """Bytes of a shard; fewer where it ends. Not checked: damage shows by the samples' checksums (`forget`).

        Raises:
            StorageError: what `fetch` raises.
        """
        stop, size = min(start + length, shard.file.size), self._block_bytes
        if start >= stop:
            return b""
        firsts = range(start - start % size, stop, size)
        return b"".join(self._part(shard, at, max(start, at), min(stop, at + size), fetch) for at in firsts)

    def forget(self, shard: PinnedShard, start: int, length: int) -> None:
        """Remove the entries that these bytes came from: a sample in them disagrees with its checksum."""
        size = self._block_bytes
        names = [self._name(shard, at) for at in range(start - start % size, start + length, size)]
        try:
            removed = self._folder.remove(names)
        except OSError as error:
            self._count_fault(error)
            return
        if removed:
            _log.warning("%s: %s: bytes disagree with the index; removed", self._folder.path, shard.file.url)
            self._count(faults=1)

    def take_figures(self) -> CacheFigures:
        """What was done since the last call."""
        with self._counting:
            found, self._figures = self._figures, CacheFigures()
            return found

    def _part(self, shard: PinnedShard, at: int, start: int, stop: int, fetch: Fetch) -> bytes:
        """Bytes from `start` to `stop` of the block that begins at `at`."""
        url, name = shard.file.url, self._name(shard, at)
        claim: UnwrittenFile | None = None
        try:
            found = self._find(name, start - at, stop - start)
            if isinstance(found, bytes):
                self._count(hit_bytes=len(found))
                return found
            claim = found
        except OSError as error:
            self._count_fault(error)
        self._count(missed_bytes=stop - start)
        if claim is None:
            return fetch(url, start, stop - start)
        data = self._fill(claim, shard, at, fetch)
        return data[start - at : stop - at]

    def _find(self, name: str, start: int, length: int) -> bytes | UnwrittenFile | None:
        """The bytes of an entry, or the right to write it; None where it cannot be kept, or another takes too long."""
        until, pause_s = time.monotonic() + _WAIT_S, _FIRST_POLL_S
        while True:
            data = self._folder.read(name, start, length)
            if data is not None and len(data) == length:
                return data
            if data is not None:  # a crash of the node left less of it than was written
                self._folder.remove([name])
                self._count(faults=1)
            claim = self._claim(name)
            if isinstance(claim, UnwrittenFile):
                return claim
            if claim is Refusal.FULL or time.monotonic() > until:
                return None
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_POLL_S)

    def _fill(self, claim: UnwrittenFile, shard: PinnedShard, at: int, fetch: Fetch) -> bytes:
        length = self._length(shard, at)
        try:
            data = fetch(shard.file.url, at, length)
        except BaseException:
            with suppress(OSError):
                claim.abandon()
            raise
        try:
            if len(data) == length:
                claim.publish(data)
            else:  # the shard is another by now; its samples will show it
                claim.abandon()
        except OSError as error:
            self._count_fault(error)
        return data

    def _claim(self, name: str) -> UnwrittenFile | Refusal:
        if time.monotonic() < self._rests_until:
            return Refusal.FULL
        for _ in range(_TRIES):
            claim = self._folder.claim(name)
            if claim is not Refusal.FULL:
                return claim
            victim = self._victim(name)
            if victim is None:
                return claim
            self._folder.remove([victim])
        return Refusal.FULL

    def _victim(self, name: str) -> str | None:
        """The entry that is needed last, if that is later than the named one is needed.

        A look at all entries takes 7 us of CPU for each, so some that rank last are kept for the next calls, and after
        a look in vain there is no other before the next step.
        """
        step = self.step
        with self._looking:
            needed = self._plan.next_steps([name], step)[0]
            own = _Candidate(False, step if needed is None else needed, name)
            if not self._candidates:
                if self._in_vain is not None and self._in_vain[0] == step and own.last >= self._in_vain[1]:
                    return None
                ranked = self._ranked(step)
                self._candidates = ranked[-(len(ranked) // _KEPT_SHARE + 1) :]
            if self._candidates and self._candidates[-1].is_later(own):
                return self._candidates.pop().name
            self._candidates, self._in_vain = [], (step, own.last)
            return None

    def _ranked(self, step: int) -> list[_Candidate]:
        """All entries; the last ones make room first."""
        names = self._folder.names()
        steps = self._plan.next_steps(names, step)
        return sorted(
            _Candidate(True, -self._folder.since(name), name) if needed is None else _Candidate(False, needed, name)
            for name, needed in zip(names, steps, strict=True)
        )

    def _name(self, shard: PinnedShard, at: int) -> str:
        return name_of(shard, at, self._length(shard, at))

    def _length(self, shard: PinnedShard, at: int) -> int:
        return min(self._block_bytes, shard.file.size - at)

    def _compare_disks(self, folder: str) -> bool:
        try:
            return os.stat(folder).st_dev != self._folder.path.stat().st_dev
        except OSError:
            return False

    def _count_fault(self, error: OSError) -> None:
        self._count(faults=1)
        with self._counting:
            self._rests_until = time.monotonic() + _REST_S
            first = error.errno not in self._warned
            self._warned.add(error.errno)
        if first:
            _log.warning("node cache %s: %s; without it the bytes come from the store", self._folder.path, error)

    def _count(self, **more: int) -> None:
        with self._counting:
            for name, number in more.items():
                setattr(self._figures, name, getattr(self._figures, name) + number)
