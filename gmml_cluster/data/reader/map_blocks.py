"""Maps of attention of all images, in blocks of 4,096 samples, each an object with its CRC (docs/reference/maps.md).

A block is the maps of samples y = 4096 k .. 4096 k + 4095 of one corpus, N bytes each, and then its CRC32C. A manifest
lists the CRCs of all blocks; the log has the manifest's digest.

Dims: n samples, N patches.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
from cachetools import LRUCache

from gmml_cluster.data.reader.locate import Wanted
from gmml_cluster.data.reader.map_crop import Bytes
from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.store.verified import read_verified

BLOCK = 4096
VERSION = 1
_CRC_BYTES = 4
_HINT = "restore it from a backup of the run; without it the masks from this step on cannot be drawn"


@dataclass(frozen=True, order=True)
class BlockId:
    """Which block: number `number` of corpus `corpus`."""

    corpus: int
    number: int

    @classmethod
    def of(cls, sample: Wanted) -> "BlockId":
        """The block that has the map of a sample."""
        return cls(sample.corpus, sample.y // BLOCK)

    @classmethod
    def parse(cls, name: str) -> "BlockId":
        """The block of this name."""
        corpus, number = name.removesuffix(".maps").split("-")
        return cls(int(corpus), int(number))

    @property
    def name(self) -> str:
        """Its object's name within the folder of the maps."""
        return f"{self.corpus:02d}-{self.number:06d}.maps"

    def samples(self, of_corpora: Sequence[int]) -> range:
        """The y whose maps it has.

        Args:
            of_corpora: samples of each corpus.
        """
        return range(self.number * BLOCK, min((self.number + 1) * BLOCK, of_corpora[self.corpus]))


def all_blocks(of_corpora: Sequence[int]) -> Iterator[BlockId]:
    """The blocks of corpora with so many samples."""
    for corpus, samples in enumerate(of_corpora):
        yield from (BlockId(corpus, number) for number in range(-(-samples // BLOCK)))


def put_block(store: Store, folder: str, block: BlockId, maps_nN: Bytes) -> int:
    """Write a block; returns its CRC32C."""
    data = np.ascontiguousarray(maps_nN).tobytes()
    crc = int(google_crc32c.value(data))
    store.put(f"{folder}/{block.name}", data + crc.to_bytes(_CRC_BYTES, "little"))
    return crc


def check_block(store: Store, folder: str, block: BlockId, size: int) -> int | None:
    """The CRC32C of a block that was written before; None where it is missing or not what was written."""
    try:
        data = read_block(store, folder, block, size)
    except StorageError:
        return None
    return int(google_crc32c.value(data))


def read_block(store: Store, folder: str, block: BlockId, size: int, crc: int | None = None) -> bytes:
    """The maps of a block, read again where they disagree with a CRC.

    Args:
        size: bytes of the maps.
        crc: of the manifest; None compares with the block's own.

    Raises:
        StorageError: it is missing or damaged.
    """
    name = f"{folder}/{block.name}"

    def check(data: bytes) -> None:
        expected = int.from_bytes(data[size:], "little") if crc is None else crc
        if len(data) != size + _CRC_BYTES or google_crc32c.value(data[:size]) != expected:
            raise StorageError(Fault(f"{store.url}/{name}", "the maps disagree with their CRC32C: damaged", _HINT))

    try:
        return read_verified(lambda: store.get(name), check)[:size]
    except NotFound as error:
        raise StorageError(Fault(f"{store.url}/{name}", "is missing", _HINT)) from error


def manifest_of(crcs: Mapping[BlockId, int], of_corpora: Sequence[int], patches: int) -> bytes:
    """The manifest of finished maps.

    Args:
        crcs: of every block.
        of_corpora: samples of each corpus.
        patches: bytes of a map.
    """
    blocks: list[list[int]] = [[] for _ in of_corpora]
    for block in all_blocks(of_corpora):
        blocks[block.corpus].append(crcs[block])
    fields = {"version": VERSION, "patches": patches, "block": BLOCK, "samples": list(of_corpora), "crc32c": blocks}
    return json.dumps(fields, separators=(",", ":")).encode()


class MapBlocks:
    """The maps of one pass; the manifest is read at the first use, blocks as they are asked for. Thread-safe.

    Args:
        store: the run root.
        folder: of the maps in it.
        sha256: digest of the manifest, from the log.
        patches: bytes of a map.
        cache: shared by all passes, so that blocks of the one before make room.
    """

    def __init__(self, store: Store, folder: str, sha256: str, patches: int, cache: "MapBlockCache") -> None:
        self._store, self._folder, self._sha256, self._patches = store, folder, sha256, patches
        self._cache, self._lock = cache, threading.Lock()
        self._found: dict[str, Any] | None = None

    def maps(self, samples: Sequence[Wanted]) -> Bytes:
        """The maps of some samples, uint8 (n, N).

        Raises:
            StorageError: the manifest or a block is missing or damaged, or the store does not answer.
        """
        found = np.empty((len(samples), self._patches), np.uint8)
        for slot, sample in enumerate(samples):
            block = BlockId.of(sample)
            found[slot] = self._cache.get(self._folder, block, self._read)[sample.y % BLOCK]
        return found

    def _read(self, block: BlockId) -> Bytes:
        manifest = self._manifest()
        count, crc = len(block.samples(manifest["samples"])), manifest["crc32c"][block.corpus][block.number]
        data = read_block(self._store, self._folder, block, count * self._patches, crc)
        return np.frombuffer(data, np.uint8).reshape(count, self._patches)

    def _manifest(self) -> dict[str, Any]:
        with self._lock:
            if self._found is None:
                name = f"{self._folder}/manifest.json"
                where = f"{self._store.url}/{name}"

                def check(data: bytes) -> None:
                    if hashlib.sha256(data).hexdigest() != self._sha256:
                        raise StorageError(Fault(where, "is not the manifest that the log records", _HINT))

                found: dict[str, Any] = json.loads(read_verified(lambda: self._store.get(name), check))
                if found["version"] != VERSION:
                    problem = f"has format version {found['version']}; this code reads {VERSION}"
                    raise StorageError(Fault(where, problem, "use the version of gmml_cluster that made the maps"))
                self._found = found
            return self._found


class MapBlockCache:
    """The blocks that were read last. One that several threads want is read once.

    Args:
        blocks: how many are held.
    """

    def __init__(self, blocks: int) -> None:
        self._blocks: LRUCache[tuple[str, BlockId], Future[Bytes]] = LRUCache(blocks)
        self._lock = threading.Lock()

    def get(self, folder: str, block: BlockId, read: Callable[[BlockId], Bytes]) -> Bytes:
        """The maps of a block; what `read` raises passes through, and it is read again the next time."""
        key = folder, block
        with self._lock:
            found = self._blocks.get(key)
            if found is None:
                waiting = self._blocks[key] = Future[Bytes]()
        if found is not None:
            return found.result()
        try:
            waiting.set_result(read(block))
        except BaseException as error:
            with self._lock:
                self._blocks.pop(key, None)
            waiting.set_exception(error)
        return waiting.result()
