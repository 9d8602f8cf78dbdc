"""The index of a shard: where its samples lie, their classes, and a CRC32C of each where every byte has been read.

A file holds a magic, the length of a JSON header, the header, one record a sample, and the members' names. It lies
beside its shard as `<shard>.index`, or in a run root's store of indexes under a name made of the shard's URL, size and
version. Beside a folder's shards records are memory-mapped.
"""

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.listing import INDEX_SUFFIX, ShardFile, split_url, store_of
from gmml_cluster.data.corpus.tar import HEADER_BLOCK_BYTES, Sample, read_samples
from gmml_cluster.errors import DataError
from gmml_cluster.store.protocol import NotFound, Store

MAGIC = b"GMMLIDX2"
RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4"), ("label", "<i4")])
_HEADER = struct.Struct("<8sI")
_HEADER_READ_BYTES = 4096


@dataclass(frozen=True)
class Header:
    """What an index says of its shard as a whole."""

    size: int
    """Bytes of the shard."""
    version: str
    """The shard's version when it was indexed."""
    samples: int
    digest: str
    """SHA-256 of the members' names and lengths."""
    crcs: str
    """First half of the SHA-256 of the samples' lengths and CRCs; empty where the CRCs have not been made."""

    @property
    def checked(self) -> bool:
        """Whether the CRCs hold."""
        return bool(self.crcs)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard."""

    header: Header
    records: NDArray[np.void]
    """One `RECORD` a sample, perhaps memory-mapped."""
    read_names: Callable[[], bytes]
    """Names of the images' members, joined by newlines: larger than all else, and seldom wanted."""

    @cached_property
    def names(self) -> list[str]:
        """Name of each image's member."""
        return self.read_names().decode("utf-8", "surrogateescape").split("\n") if len(self.records) else []

    def to_bytes(self) -> bytes:
        """The file; `parse` reads it back."""
        header = json.dumps(asdict(self.header), sort_keys=True).encode()
        return b"".join((_HEADER.pack(MAGIC, len(header)), header, self.records.tobytes(), self.read_names()))


def crc32c(data: bytes) -> int:
    """The CRC32C of some bytes."""
    value: int = google_crc32c.value(data)
    return value


def build(shard: ShardFile, *, checked: bool) -> ShardIndex:
    """Index a shard from its headers, or from every byte where `checked`.

    Raises:
        DataError: the shard is damaged.
        StorageError: it cannot be read.
    """
    folder, name = split_url(shard.url)
    store = store_of(folder)

    def read(start: int, length: int) -> bytes:
        return store.get(name, start, length)

    if not checked:
        return assemble(shard, read_samples(shard.url, read, shard.size, HEADER_BLOCK_BYTES))
    crcs: list[int] = []
    samples = read_samples(shard.url, read, shard.size, digest=lambda image: crcs.append(crc32c(image)))
    return assemble(shard, samples, crcs)


def assemble(shard: ShardFile, samples: Iterable[Sample], crcs: list[int] | None = None) -> ShardIndex:
    """The index of samples whose places are known."""
    listed = list(samples)
    records = np.zeros(len(listed), RECORD)
    for field in ("offset", "length", "label"):
        records[field] = [getattr(sample, field) for sample in listed]
    if crcs is not None:
        records["crc"] = crcs
    for sample in listed:
        if "\n" in sample.name:
            raise DataError(f"{shard.url}: member {sample.name!r}; names have no line breaks; pack it again")
    names = "\n".join(sample.name for sample in listed).encode("utf-8", "surrogateescape")
    lengths = records["length"].tobytes()
    digest = hashlib.sha256(names + lengths).hexdigest()
    checked = "" if crcs is None else hashlib.sha256(lengths + records["crc"].tobytes()).hexdigest()[:32]
    return ShardIndex(Header(shard.size, shard.version, len(listed), digest, checked), records, lambda: names)


def with_version(found: ShardIndex, version: str) -> ShardIndex:
    """The index of a shard that was moved to where it has another version."""
    return replace(found, header=replace(found.header, version=version))


def parse(where: str, data: bytes) -> ShardIndex:
    """The index that `to_bytes` wrote.

    Raises:
        DataError: it is damaged.
    """
    header, start = parse_header(where, data)
    end = _end_of_records(where, header, start, len(data))
    return ShardIndex(header, np.frombuffer(data, RECORD, header.samples, start), lambda: data[end:])


def parse_header(where: str, data: bytes) -> tuple[Header, int]:
    """The header of an index, and where its records begin; `data` may end anywhere behind the header.

    Raises:
        DataError: it is no index.
    """
    try:
        magic, length = _HEADER.unpack_from(data)
        if magic != MAGIC:
            raise ValueError(f"it begins with {magic!r}")
        return Header(**json.loads(data[_HEADER.size : _HEADER.size + length])), _HEADER.size + length
    except (struct.error, ValueError, TypeError) as error:
        raise DataError(f"{where}: is no index of a shard ({error}); delete it, it is made again") from error


def find_header(shard: ShardFile, indexes: Store | None) -> Header | None:
    """The header of the shard's index, wherever it lies; None where there is none that fits."""
    for store, name in _homes(shard, indexes):
        try:
            header, _ = parse_header(f"{store.url}/{name}", store.get(name, 0, _HEADER_READ_BYTES))
        except NotFound:
            continue
        if fits(header, shard):
            return header
    return None


def stored_crcs(shard: ShardFile, indexes: Store) -> str:
    """`Header.crcs` of the index that was made of just this version of the shard; empty where there is none."""
    try:
        name = stored_name(shard)
        return parse_header(f"{indexes.url}/{name}", indexes.get(name, 0, _HEADER_READ_BYTES))[0].crcs
    except NotFound:
        return ""


def find(shard: ShardFile, indexes: Store | None) -> ShardIndex | None:
    """The shard's index, wherever it lies; None where there is none that fits."""
    for store, name in _homes(shard, indexes):
        where = f"{store.url}/{name}"
        try:
            local = Path(where)
            found = (
                _map(local) if local.is_file() else _without_names(parse(where, store.get(name)), where, store, name)
            )
        except NotFound:
            continue
        if fits(found.header, shard):
            return found
    return None


def put(made: ShardIndex, shard: ShardFile, indexes: Store | None) -> None:
    """Keep an index: in a store of indexes, or beside its shard where that is None.

    Raises:
        StorageError: it cannot be written there.
    """
    store, name = _beside(shard) if indexes is None else (indexes, stored_name(shard))
    store.put(name, made.to_bytes())


def fits(header: Header, shard: ShardFile) -> bool:
    """Whether an index speaks of this shard: by size and version, or by size where CRCs will tell what differs."""
    return header.size == shard.size and (header.checked or header.version == shard.version)


def _end_of_records(where: str, header: Header, start: int, size: int) -> int:
    end = start + header.samples * RECORD.itemsize
    if size < end:
        raise DataError(f"{where}: ends at byte {size}, {end} wanted; the index is damaged; delete it")
    return end


def _map(path: Path) -> ShardIndex:
    with path.open("rb") as file:
        header, start = parse_header(str(path), file.read(_HEADER_READ_BYTES))
        _end_of_records(str(path), header, start, os.fstat(file.fileno()).st_size)
        records = np.memmap(file, RECORD, "r", start, header.samples) if header.samples else np.zeros(0, RECORD)
    return ShardIndex(header, records, lambda: parse(str(path), path.read_bytes()).read_names())


def _without_names(found: ShardIndex, where: str, store: Store, name: str) -> ShardIndex:
    """The index with its names left in the store; whoever wants them reads the file again, which may be newer."""
    return ShardIndex(found.header, found.records.copy(), lambda: parse(where, store.get(name)).read_names())


def _homes(shard: ShardFile, indexes: Store | None) -> list[tuple[Store, str]]:
    beside = _beside(shard)
    return [beside] if indexes is None else [beside, (indexes, stored_name(shard))]


def _beside(shard: ShardFile) -> tuple[Store, str]:
    folder, name = split_url(shard.url)
    return store_of(folder), name + INDEX_SUFFIX


def stored_name(shard: ShardFile) -> str:
    """Name of a shard's index in a store of indexes."""
    parts: list[Any] = [shard.url, shard.size, shard.version]
    return f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}{INDEX_SUFFIX}"
