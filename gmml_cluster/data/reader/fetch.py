"""Bytes of samples, ahead of the threads that decode them: requests in a pool of their own, bounded by bytes.

The order of samples is known, so requests of later steps are issued while earlier ones wait for their answers. A slow
request delays the chunk that needs it and no other. Retries of requests are the store's; a sample whose bytes disagree
with its index is read again here.
"""

import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import reduce

import numpy as np

from gmml_cluster.data.corpus.index import ShardIndex, crc32c
from gmml_cluster.data.corpus.parquet import demand_pyarrow
from gmml_cluster.data.corpus.pin import Pin, verify_shard
from gmml_cluster.data.corpus.pinned import PinnedShard
from gmml_cluster.data.node_cache.cache import NodeCache
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.locate import Locator, Pieces, Wanted
from gmml_cluster.data.reader.reads import (
    REMOTE,
    BlockCache,
    Encoded,
    OpenShards,
    Read,
    coalesce,
    distinct,
    most_open_shards,
    read_range,
)
from gmml_cluster.errors import Fault, GmmlError, StorageError
from gmml_cluster.store.verified import READS, read_verified

_FIRST_PAUSE_S = 0.2
_DEFAULT_READS = 8
_MOST_GROUP_BYTES = 8 * 2**20
_LOCAL_READS_A_TASK = 8
"""Reads that a thread of the pool takes at once where they come from a folder: to wake it costs as much as a read."""

__all__ = ["Chunk", "Fetcher", "Wanted", "read_range"]


class _DisagreesError(StorageError):
    """Bytes of a sample are not those that its index promises."""


@dataclass(eq=False)
class Chunk:
    """Samples that are fetched and decoded together.

    Attributes:
        pieces: images, then the masks of all of them where masks are read.
        fetched: their bytes in the order of `pieces`, once all have been read and checked.
        reads: of each sample; empty until the chunk is begun, and again after its release.
        needed: the same, each once.
        ready_bytes: of the samples that have arrived and were not released.
    """

    pieces: Pieces
    fetched: "Future[list[Encoded]]" = field(default_factory=Future)
    reads: list[list[Read]] = field(default_factory=list)
    needed: list[Read] = field(default_factory=list)
    ready_bytes: int = 0


class _Task:
    """Reads that a thread of the pool takes at once."""

    def __init__(self, reads: Sequence[Read]) -> None:
        self.reads = reads
        self.ended: Future[None] = Future()
        for read in reads:
            read.task = self.ended

    def cancel_with(self, submitted: "Future[None]") -> None:
        """Nobody is to wait for a task that the pool dropped."""
        if submitted.cancelled():
            self.ended.cancel()


class Fetcher:
    """Reads samples of a pin; thread-safe.

    Args:
        pin: the run's corpora.
        ahead_bytes: what `begin` may hold of encoded bytes, requested or read.
        cache_bytes: memory for blocks of object stores; 0 reads just the samples' ranges.
        reads: requests in flight at once.
        node_cache: keeps what is read on the node's disk; None reads from the corpora's stores alone.

    Raises:
        PreflightError: shards are parquet files, and pyarrow is not installed here.
    """

    def __init__(
        self,
        pin: Pin,
        cache_bytes: int = 0,
        *,
        ahead_bytes: int = 2**26,
        reads: int = _DEFAULT_READS,
        node_cache: NodeCache | None = None,
    ) -> None:
        for corpus in pin.corpora:
            demand_pyarrow(corpus.shards[0].file.url)
        self._pin, self._node_cache = pin, node_cache
        self._locator = Locator(pin)
        self._blocks = BlockCache(cache_bytes)
        self._shards = OpenShards(most_open_shards())
        self._pool = ThreadPoolExecutor(reads, thread_name_prefix="fetch")
        self._remote = any(corpus.shards[0].file.url.startswith(REMOTE) for corpus in pin.corpora)
        self._ahead_bytes, self._held_bytes = ahead_bytes, 0
        self._in_flight = self._ready_bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    @property
    def group_bytes(self) -> int:
        """Bytes that chunks of one `begin` should stay below, so that a few groups fit into the memory."""
        return min(self._ahead_bytes // 16, _MOST_GROUP_BYTES)

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer."""
        return self._in_flight

    @property
    def ready_bytes(self) -> int:
        """Encoded bytes of samples that have arrived and wait to be decoded."""
        return self._ready_bytes

    def locate(self, corpus: Ints, y: Ints, *, masks: bool = False) -> Pieces:
        """Where samples' images lie, or their masks; loads the indexes that are not at hand, several at once.

        Args:
            corpus: of each sample, int64 (n,).
            y: index in it, int64 (n,).
            masks: whether their masks are wanted.

        Raises:
            StorageError: an index cannot be read, or its shard is gone or changed since it was pinned.
        """
        return self._locator.locate(corpus, y, self._indexes, masks=masks)

    def labels(self, corpus: Ints, y: Ints) -> Ints:
        """The classes of samples, int64 (n,), -1 where one has none.

        Args:
            corpus: of each sample, int64 (n,).
            y: index in it, int64 (n,).

        Raises:
            DataError: an index has other classes than its shard.
            StorageError: a store does not answer, or a shard is gone or changed since it was pinned.
        """
        return self._locator.labels(corpus, y, self._pin.labels_of)

    def fetch(self, samples: Sequence[Wanted], *, masks: bool = False) -> list[bytes]:
        """The bytes of the images, or of the masks, in the order asked for; waits for them.

        Raises:
            StorageError: the store does not answer, or bytes disagree with the index after all tries; names shard and
                member, or says that the shard changed.
        """
        pairs = np.array([(sample.corpus, sample.y) for sample in samples], np.int64).reshape(-1, 2)
        pieces = self.locate(pairs[:, 0], pairs[:, 1], masks=masks)
        reads = self._reads(pieces)
        self._start(distinct(reads))
        return [bytes(data) for data in self._checked(pieces, reads)]

    def begin(self, chunks: Sequence[Chunk]) -> bool:
        """Request what chunks need, once there is room; each chunk's `fetched` is set when all of it is read.

        One call's chunks share reads, so a call should be given neighbours in time, of `group_bytes` at most. There is
        always room for one call.

        Returns:
            False where the fetcher was closed.
        """
        if self._remote and self._blocks.serves(REMOTE):
            of_chunks = [self._reads(chunk.pieces) for chunk in chunks]
        else:
            of_chunks = _coalesced(chunks)
        needs = [distinct(reads) for reads in of_chunks]
        needed = distinct(needs)
        copied = sum(chunk.pieces.inflated_bytes for chunk in chunks)
        with self._changed:
            more = copied + sum(read.length for read in needed if read.users == 0)
            while not self._closed and self._held_bytes and self._held_bytes + more > self._ahead_bytes:
                self._changed.wait()
                more = copied + sum(read.length for read in needed if read.users == 0)
            if self._closed:
                return False
            self._held_bytes += more
            for chunk, reads, each_once in zip(chunks, of_chunks, needs, strict=True):
                chunk.reads, chunk.needed = reads, each_once
                for read in each_once:
                    read.users += 1
        self._start(needed, inline=False)
        for chunk in chunks:
            self._finish_when_read(chunk)
        return True

    def release(self, chunk: Chunk) -> None:
        """Free the memory of a chunk whose bytes were used."""
        with self._changed:
            self._held_bytes -= chunk.pieces.inflated_bytes if chunk.reads else 0
            for read in chunk.needed:
                read.users -= 1
                self._held_bytes -= read.length if read.users == 0 else 0
            self._ready_bytes -= chunk.ready_bytes
            chunk.reads, chunk.needed, chunk.fetched, chunk.ready_bytes = [], [], Future(), 0
            self._changed.notify_all()

    def is_checked(self, sample: Wanted) -> bool:
        """Whether the sample's index has a CRC that its bytes are checked against."""
        shard, _ = self._pin.shard_of(sample.corpus, sample.y)
        return self._pin.index_of(shard).header.checked

    def demand_unchanged(self, sample: Wanted) -> None:
        """Before a sample without a CRC is called bad: its bytes prove nothing if the shard is another by now.

        Raises:
            ShardChanged: it is.
        """
        if not self.is_checked(sample):
            verify_shard(self._pin.shard_of(sample.corpus, sample.y)[0])

    def close(self) -> None:
        """Drop what was requested and join the threads; a request in flight is waited for."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._shards.close()

    def _indexes(self, shards: Sequence[PinnedShard]) -> Iterable[ShardIndex]:
        # a folder's index is a short read; an object store's is two requests, and a first step needs one a lane
        load = self._pool.map if self._remote and len(shards) > 1 else map
        return load(self._pin.index_of, shards)

    def _reads(self, pieces: Pieces) -> list[list[Read]]:
        if self._remote and self._blocks.serves(REMOTE):
            return self._blocks.reads(pieces)
        return coalesce(pieces)

    def _start(self, reads: Sequence[Read], *, inline: bool = True) -> None:
        """Send the requests that have not been sent; a single one in the caller's thread where `inline`."""
        size = 1 if self._remote else _LOCAL_READS_A_TASK
        with self._changed:
            new = [read for read in reads if read.task is None]
            tasks = [_Task(new[first : first + size]) for first in range(0, len(new), size)]
        if inline and len(new) == 1:
            self._run(tasks[0])
            return
        try:
            for task in tasks:
                self._pool.submit(self._run, task).add_done_callback(task.cancel_with)
        except RuntimeError:  # closed meanwhile
            for task in tasks:
                task.ended.cancel()
            raise

    def _run(self, task: "_Task") -> None:
        if not task.ended.set_running_or_notify_cancel():
            return
        with self._changed:
            self._in_flight += 1
        for read in task.reads:
            try:
                read.data = self._get(read)
            except BaseException as error:  # those who wait for the read raise it
                read.failure = error
        with self._changed:
            self._in_flight -= 1
        task.ended.set_result(None)

    def _get(self, read: Read) -> bytes:
        try:
            if self._node_cache is not None and self._node_cache.serves(read.shard):
                return self._node_cache.read(read.shard, read.start, read.length, self._shards.read)
            return self._shards.read(read.shard.file.url, read.start, read.length)
        except BaseException:
            self._blocks.forget(read.shard.file.url)  # else the failure would be cached
            raise

    def _finish_when_read(self, chunk: Chunk) -> None:
        """Check the chunk in the thread that brings its last bytes."""
        tasks = {read.task for read in chunk.needed}
        left, lock = len(tasks), threading.Lock()

        def arrived(_: object) -> None:
            nonlocal left
            with lock:
                left -= 1
                last = left == 0
            if last:
                self._finish(chunk)

        for task in tasks:
            assert task is not None
            task.add_done_callback(arrived)

    def _finish(self, chunk: Chunk) -> None:
        try:
            found = self._checked(chunk.pieces, chunk.reads)
        except BaseException as error:  # the thread that waits for the chunk raises it
            chunk.fetched.set_exception(error)
        else:
            with self._changed:
                chunk.ready_bytes = sum(map(len, found))
                self._ready_bytes += chunk.ready_bytes
            chunk.fetched.set_result(found)

    def _checked(self, pieces: Pieces, reads: Sequence[Sequence[Read]]) -> list[Encoded]:
        try:
            found: list[Encoded] = [
                of_sample[0].bytes_of(offset, length)
                if len(of_sample) == 1
                else b"".join(read.bytes_of(offset, length) for read in of_sample)
                for of_sample, offset, length in zip(reads, pieces.offsets, pieces.lengths, strict=True)
            ]
        except CancelledError as error:
            raise self._given_up(pieces) from error
        for slot, data in enumerate(found):
            image = _image(pieces, slot, data)
            found[slot] = self._read_again(pieces, slot, data) if image is None else image
        return found

    def _read_again(self, pieces: Pieces, slot: int, data: Encoded) -> Encoded:
        """The sample's image, asked for again while its bytes disagree with the index."""
        shard, answers = pieces.shards[slot], [data]
        url, start, length = shard.file.url, pieces.offsets[slot], pieces.lengths[slot]
        if self._node_cache is not None and self._node_cache.serves(shard):
            self._node_cache.forget(shard, start, length)

        def read() -> Encoded | None:
            if answers:
                return _image(pieces, slot, answers.pop())
            if self._closed:
                raise self._given_up(pieces)
            self._blocks.forget(url)
            self._shards.forget(url)
            return _image(pieces, slot, read_range(url, start, length))

        def check(image: Encoded | None) -> None:
            if image is None:
                raise _DisagreesError(Fault(url, f"sample {pieces.indexes[slot]}: the bytes disagree with the index"))

        try:
            image = read_verified(read, check, pause_s=_FIRST_PAUSE_S)
        except _DisagreesError as error:
            verify_shard(shard)
            member = self._pin.index_of(shard).names[pieces.indexes[slot]]
            problem = (
                f"the bytes disagree with the index after {READS} tries; the store, the shard or its index is wrong"
            )
            hint = "copy the shard again; if it was rewritten on purpose: gmml corpus index --anew URL"
            raise StorageError(Fault(f"{url}, member {member}", problem, hint)) from error
        assert image is not None  # `check` refuses it
        return image

    def _given_up(self, pieces: Pieces) -> GmmlError:
        return StorageError(Fault(pieces.shards[0].file.url, "reading was given up; the stream is closed"))


def _coalesced(chunks: Sequence[Chunk]) -> list[list[list[Read]]]:
    """Reads of chunks that are requested together: a read may bring samples of several of them."""
    joined = reduce(Pieces.joined, (chunk.pieces for chunk in chunks))
    reads, ends = coalesce(joined), np.cumsum([len(chunk.pieces) for chunk in chunks]).tolist()
    return [reads[end - len(chunk.pieces) : end] for chunk, end in zip(chunks, ends, strict=True)]


def _image(pieces: Pieces, slot: int, data: Encoded) -> Encoded | None:
    """The sample's image in what was read of its shard; None where that disagrees with the index."""
    crc, excerpt = pieces.crcs[slot], pieces.excerpts[slot]
    if len(data) != pieces.lengths[slot]:
        return None
    if excerpt is not None:
        try:
            data = excerpt.of(data)
        except (OSError, ValueError):
            return None
    return data if crc is None or crc32c(bytes(data)) == crc else None
