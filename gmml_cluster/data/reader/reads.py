"""Which requests bring the bytes of some samples: neighbours are read together, object stores in whole blocks."""

import resource
import threading
from collections.abc import Sequence
from concurrent.futures import Future

from cachetools import LRUCache

from gmml_cluster.data.corpus.listing import split_url, store_of
from gmml_cluster.data.corpus.pinned import PinnedShard
from gmml_cluster.data.reader.locate import Pieces
from gmml_cluster.store.posix import OpenFile, PosixStore

BLOCK_BYTES = 2**20
GAP_BYTES = 2**15
"""Bytes between two samples that are read along rather than asked for apart."""
LONGEST_BYTES = 8 * 2**20
"""A longer read would keep the first of its samples waiting for the last."""
REMOTE = "s3://"
_MOST_OPEN = 256
_SHARE_OPEN = 8
"""Of the descriptors that the process may have, one in so many may be a shard's."""
Encoded = bytes | memoryview


class Read:
    """One request to a store, shared by all samples whose bytes it brings.

    Attributes:
        task: ends when its bytes are there, or its failure; it may bring several reads. None until it is started.
        data: the bytes.
        failure: what the store raised instead.
        users: chunks that still need them.
    """

    __slots__ = ("data", "failure", "length", "shard", "start", "task", "users")

    def __init__(self, shard: PinnedShard, start: int, length: int) -> None:
        self.shard, self.start, self.length = shard, start, length
        self.task: Future[None] | None = None
        self.data: bytes | None = None
        self.failure: BaseException | None = None
        self.users = 0

    def bytes_of(self, start: int, length: int) -> Encoded:
        """The read's share of some bytes of the shard, not copied; waits for them. It must have been started."""
        data = self.data
        if data is None:
            data = self._awaited()
        first, last = start - self.start, start + length - self.start
        if first <= 0 and last == len(data):
            return data
        return memoryview(data)[max(first, 0) : max(last, 0)]

    def _awaited(self) -> bytes:
        assert self.task is not None
        self.task.result()
        if self.failure is not None:
            raise self.failure
        assert self.data is not None
        return self.data


def read_range(url: str, start: int, length: int) -> bytes:
    """Bytes of a shard; fewer where it ends."""
    folder, name = split_url(url)
    return store_of(folder).get(name, start, length)


class OpenShards:
    """Shards in folders, kept open for their next reads, the least recently used let go first; thread-safe.

    To open a file costs ten times as much as to read 2 kB of it, on a network file system a request or two to its
    server besides.

    Args:
        most: shards that are open at once.
    """

    def __init__(self, most: int) -> None:
        self._held: LRUCache[str, OpenFile] = LRUCache(most)
        self._lock = threading.Lock()

    def read(self, url: str, start: int, length: int) -> bytes:
        """Bytes of a shard, also of one in an object store; fewer where it ends.

        Raises:
            StorageError: it cannot be read.
        """
        with self._lock:
            found = self._held.get(url)
        if found is None:
            folder, name = split_url(url)
            store = store_of(folder)
            if not isinstance(store, PosixStore):
                return store.get(name, start, length)
            found = store.open_to_read(name)
            with self._lock:
                self._held[url] = found
        try:
            return found.read(start, length)
        except OSError:  # a server that was restarted, or whose file was replaced, refuses what it opened before
            self.forget(url)
            return read_range(url, start, length)

    def forget(self, url: str) -> None:
        """Open the shard anew when it is read next."""
        with self._lock:
            self._held.pop(url, None)

    def close(self) -> None:
        """Let all go."""
        with self._lock:
            self._held.clear()


def most_open_shards() -> int:
    """How many shards a stream may keep open."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_OPEN if allowed == resource.RLIM_INFINITY else max(min(allowed // _SHARE_OPEN, _MOST_OPEN), 1)


def coalesce(pieces: Pieces) -> list[list[Read]]:
    """New reads for each of some samples, one a sample: shared where samples are close neighbours in a shard."""
    offsets, lengths = pieces.offsets, pieces.lengths
    urls = [shard.file.url for shard in pieces.shards]
    reads: list[list[Read]] = [[]] * len(pieces)
    url, start, end = "", 0, 0
    run: list[int] = []

    def finish() -> None:
        read = [Read(pieces.shards[run[0]], start, end - start)]
        for slot in run:
            reads[slot] = read

    for slot in sorted(range(len(pieces)), key=lambda slot: (urls[slot], offsets[slot])):
        offset, stop = offsets[slot], offsets[slot] + lengths[slot]
        if run and (urls[slot] != url or offset > end + GAP_BYTES or max(stop, end) > start + LONGEST_BYTES):
            finish()
            run = []
        if not run:
            url, start, end = urls[slot], offset, stop
        run.append(slot)
        end = max(end, stop)
    if run:
        finish()
    return reads


class BlockCache:
    """Whole blocks of shards in object stores, the least recently used dropped first; thread-safe.

    Args:
        limit_bytes: memory for blocks; below one block nothing is cached.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._held: LRUCache[tuple[str, int], Read] = LRUCache(limit_bytes, getsizeof=lambda read: read.length)
        self._lock = threading.Lock()

    def serves(self, url: str) -> bool:
        """Whether shards of this store are read in blocks."""
        return self._held.maxsize >= BLOCK_BYTES and url.startswith(REMOTE)

    @property
    def held_bytes(self) -> int:
        """Bytes of the blocks held, those being read included."""
        return int(self._held.currsize)

    def reads(self, pieces: Pieces) -> list[list[Read]]:
        """The blocks that each sample lies in; two samples of a block share one read."""
        with self._lock:
            return [
                [self._block(shard, number) for number in _blocks(offset, length)]
                for shard, offset, length in zip(pieces.shards, pieces.offsets, pieces.lengths, strict=True)
            ]

    def forget(self, url: str) -> None:
        """Drop a shard's blocks: one of them held bytes that its index contradicts, or could not be read."""
        with self._lock:
            for key in [key for key in self._held if key[0] == url]:
                del self._held[key]

    def _block(self, shard: PinnedShard, number: int) -> Read:
        key = shard.file.url, number
        read = self._held.get(key)
        if read is None:
            start = number * BLOCK_BYTES
            read = Read(shard, start, max(min(BLOCK_BYTES, shard.file.size - start), 0))
            self._held[key] = read
        return read


def _blocks(offset: int, length: int) -> range:
    return range(offset // BLOCK_BYTES, (offset + max(length, 1) - 1) // BLOCK_BYTES + 1)


def distinct(reads: Sequence[Sequence[Read]]) -> list[Read]:
    """Each read once, in the order in which samples need them."""
    return list(dict.fromkeys(read for of_sample in reads for read in of_sample))
