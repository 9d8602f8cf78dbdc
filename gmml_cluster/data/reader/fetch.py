"""Bytes of samples, checked against their CRCs: neighbours are read together, from object stores in whole blocks."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gmml_cluster.data.corpus.index import crc32c
from gmml_cluster.data.corpus.listing import split_url, store_of
from gmml_cluster.data.corpus.pin import Pin, PinnedShard, verify_shard
from gmml_cluster.errors import StorageError

_GAP_BYTES = 2**15
_LONGEST_READ_BYTES = 8 * 2**20
BLOCK_BYTES = 2**20
_TRIES = 4
_FIRST_PAUSE_S = 0.2


@dataclass(frozen=True)
class Wanted:
    """A sample to be read."""

    corpus: int
    y: int


@dataclass(frozen=True)
class _Piece:
    """Where a wanted sample lies."""

    slot: int
    shard: PinnedShard
    place: int
    offset: int
    length: int
    crc: int | None


class Fetcher:
    """Reads samples of a pin; thread-safe.

    Args:
        pin: the run's corpora.
        cache_bytes: memory for blocks of object stores; 0 reads just the samples' ranges.
    """

    def __init__(self, pin: Pin, cache_bytes: int = 0) -> None:
        self._pin = pin
        self._blocks = _Blocks(cache_bytes)
        self._closed = threading.Event()

    def fetch(self, samples: Sequence[Wanted]) -> list[bytes]:
        """The images' bytes, in the order asked for.

        Raises:
            StorageError: the store does not answer, or bytes disagree with the index after all tries; names shard and
                member, or says that the shard changed.
        """
        pieces = sorted(
            (self._locate(slot, sample) for slot, sample in enumerate(samples)),
            key=lambda piece: (piece.shard.file.url, piece.offset),
        )
        found: dict[int, bytes] = {}
        for run in _runs(pieces):
            start = run[0].offset
            data = self._read(run[0].shard, start, max(piece.offset + piece.length for piece in run) - start)
            for piece in run:
                found[piece.slot] = self._checked(piece, data[piece.offset - start :][: piece.length])
        return [found[slot] for slot in range(len(samples))]

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
        """Let waiting retries give up."""
        self._closed.set()

    def _locate(self, slot: int, sample: Wanted) -> _Piece:
        shard, place = self._pin.shard_of(sample.corpus, sample.y)
        found = self._pin.index_of(shard)
        record = found.records[place]
        crc = int(record["crc"]) if found.header.checked else None
        return _Piece(slot, shard, place, int(record["offset"]), int(record["length"]), crc)

    def _read(self, shard: PinnedShard, start: int, length: int) -> bytes:
        if self._blocks.limit and shard.file.url.startswith("s3://"):
            return self._blocks.read(shard.file.url, start, length)
        return read_range(shard.file.url, start, length)

    def _checked(self, piece: _Piece, data: bytes) -> bytes:
        """The sample's bytes, asked for again while they disagree with the index."""
        for attempt in range(1, _TRIES):
            if _agrees(piece, data):
                break
            if self._closed.wait(_FIRST_PAUSE_S * 4 ** (attempt - 1)):
                raise StorageError(f"{piece.shard.file.url}: reading was given up; the stream is closed; nothing to do")
            self._blocks.forget(piece.shard.file.url)
            data = read_range(piece.shard.file.url, piece.offset, piece.length)
        if not _agrees(piece, data):
            verify_shard(piece.shard)
            member = self._pin.index_of(piece.shard).names[piece.place]
            raise StorageError(
                f"{piece.shard.file.url}, member {member}: the bytes disagree with the index after {_TRIES} tries; the "
                "store or the shard is damaged; copy the shard again, or pack it again with its index"
            )
        return data


def read_range(url: str, start: int, length: int) -> bytes:
    """Bytes of a shard; fewer where it ends."""
    folder, name = split_url(url)
    return store_of(folder).get(name, start, length)


def _agrees(piece: _Piece, data: bytes) -> bool:
    return len(data) == piece.length and (piece.crc is None or crc32c(data) == piece.crc)


def _runs(pieces: Sequence[_Piece]) -> Iterator[list[_Piece]]:
    """Pieces that are read together: of one shard, with small gaps, not too long; sorted by place."""
    run: list[_Piece] = []
    for piece in pieces:
        if run and (
            piece.shard is not run[0].shard
            or piece.offset > run[-1].offset + run[-1].length + _GAP_BYTES
            or piece.offset + piece.length > run[0].offset + _LONGEST_READ_BYTES
        ):
            yield run
            run = []
        run.append(piece)
    if run:
        yield run


class _Blocks:
    """Whole blocks of shards, the last used held within a limit of memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def read(self, url: str, start: int, length: int) -> bytes:
        first, last = start // BLOCK_BYTES, (start + max(length, 1) - 1) // BLOCK_BYTES
        data = b"".join(self._block(url, number) for number in range(first, last + 1))
        return data[start - first * BLOCK_BYTES :][:length]

    def forget(self, url: str) -> None:
        with self._lock:
            for key in [key for key in self._held if key[0] == url]:
                self._bytes -= len(self._held.pop(key))

    def _block(self, url: str, number: int) -> bytes:
        with self._lock:
            if (url, number) in self._held:
                self._held.move_to_end((url, number))
                return self._held[url, number]
        block = read_range(url, number * BLOCK_BYTES, BLOCK_BYTES)
        with self._lock:
            if (url, number) not in self._held:
                self._held[url, number] = block
                self._bytes += len(block)
            while self._bytes > self.limit:
                self._bytes -= len(self._held.popitem(last=False)[1])
        return block
