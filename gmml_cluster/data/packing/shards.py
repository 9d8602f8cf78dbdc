"""Images of tar shards, compressed tars or parquet files: each file becomes an index of a tar that has its samples."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.foreign import ARCHIVE_SUFFIXES, PARQUET_SUFFIX
from gmml_cluster.data.corpus.index import ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.summary import NO_CLASS, summarise
from gmml_cluster.data.packing.catalog import ROW, Catalog, Row
from gmml_cluster.data.packing.parquet import Unpacked, splits, unpack_parquet
from gmml_cluster.data.packing.source import ImageSource, Item, MemberBytes, key_of, legible
from gmml_cluster.data.packing.unpack import unpack_archive
from gmml_cluster.data.workers import Workers
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.progress import progress
from gmml_cluster.wording import counted

_REASONS_SHOWN = 3


@dataclass(frozen=True)
class _Reading:
    """A task: to read one file of a source."""

    number: int
    file: ShardFile
    image: str | None
    scratch: str
    """Where what is unpacked of all files goes."""

    @property
    def name(self) -> str:
        return self.file.url


@dataclass(frozen=True)
class _Found:
    """A file that was read: the tar that has its samples, and that tar's index."""

    number: int
    url: str
    """Of the tar: the file itself, or what it was unpacked to."""
    index: bytes
    parquet: Unpacked | None = None


@dataclass(frozen=True)
class Shards:
    """The files of a source, all of one kind."""

    url: str
    files: tuple[ShardFile, ...]
    image: str | None
    """Field or column that holds the images."""
    suffixes: tuple[str, ...]
    """Of their kind."""

    @property
    def digest(self) -> str:
        """Of the files' names, sizes and versions, and of the field."""
        rows = [[file.url, file.size, file.version] for file in self.files]
        return hashlib.sha256(json.dumps([rows, self.image]).encode()).hexdigest()

    def read(self, scratch: str, workers: Workers) -> ImageSource:
        """The samples of all files, in the files' order.

        Raises:
            PreflightError: a library is missing here.
            DataError: a file or index is damaged, or there is no sample.
            StorageError: a store does not answer, or what is unpacked cannot be written.
        """
        field = "" if PARQUET_SUFFIX in self.suffixes else self.image or ""
        files = (replace(file, image=field) for file in self.files)
        tasks = (_Reading(number, file, self.image, scratch) for number, file in enumerate(files))
        read = _read_parquet if PARQUET_SUFFIX in self.suffixes else _read_tar
        read = _read_archive if self.suffixes == ARCHIVE_SUFFIXES else read
        waiting: dict[int, _Found] = {}
        gathered = _Gathered(self)
        with progress("reading the source", len(self.files)) as advance:
            for found in workers.map(read, tasks):
                waiting[found.number] = found
                while gathered.count in waiting:
                    gathered.add(waiting.pop(gathered.count))
                advance(1)
        return gathered.source()


class _Gathered:
    """Files in order, as far as they have been read."""

    def __init__(self, shards: Shards) -> None:
        self._shards = shards
        self._urls: list[str] = []
        self._headers: list[index.Header] = []
        self._parquet: list[Unpacked] = []
        self._catalog = Catalog(self._item)

    @property
    def count(self) -> int:
        return len(self._urls)

    def add(self, found: _Found) -> None:
        parsed = index.parse(found.url, found.index)
        self._urls.append(found.url)
        self._headers.append(parsed.header)
        self._parquet += [] if found.parquet is None else [found.parquet]
        for name in parsed.names:
            legible(name)
        self._catalog.add(_rows(parsed, len(self._urls) - 1), parsed.names)

    def source(self) -> ImageSource:
        if not len(self._catalog):
            passed = summarise(self._headers).passed_over[:_REASONS_SHOWN]
            what = f"holds no sample; images end in .jpg, .jpeg, .png or .webp{''.join(f'; {each}' for each in passed)}"
            raise DataError(Fault(self._shards.url, what, "check the shards"))
        classes = next((found.classes for found in self._parquet if found.classes), ())
        notes = self._notes_of_parquet() if self._parquet else self._notes_of_tars()
        return ImageSource(self._catalog, classes, tuple(notes), self._shards.digest)

    def _item(self, row: Row, name: str) -> Item:
        number, label, offset, length, crc, mask_offset, mask_length, mask_crc, _ = row
        url, file = self._urls[number], self._shards.files[number]
        checked = self._headers[number].checked
        folder, slash, member = name.rpartition("/")
        key, last = key_of(folder + slash + member.partition(".")[0]), member.rpartition(".")[2].lower()
        where = f"{file.url}, member {name}"
        origin = f"{file.url}, row {int(key.rpartition('/')[2])}" if self._parquet else f"{file.url}, {name}"
        mask = MemberBytes(url, mask_offset, mask_length, mask_crc if checked else None, where) if mask_length else None
        return Item(key, last, label, MemberBytes(url, offset, length, crc if checked else None, where), origin, mask)

    def _notes_of_tars(self) -> Iterator[str]:
        pairs = list(zip(self._shards.files, self._headers, strict=True))
        unchecked = [(file.url, header.samples) for file, header in pairs if not header.checked]
        if unchecked:
            samples = counted(sum(count for _, count in unchecked), "sample")
            without = f"{counted(len(unchecked), 'shard')} without an index with checksums"
            yield f"read unchecked: {samples} of {without}, the first {unchecked[0][0]}"
        summary = summarise(self._headers)
        yield from summary.notes
        if not summary.labelled:
            yield NO_CLASS

    def _notes_of_parquet(self) -> Iterator[str]:
        yield from splits([file.name for file in self._shards.files])
        if all(found.no_labels for found in self._parquet):
            yield self._parquet[0].no_labels
        empty = sum(found.rows for found in self._parquet) - len(self._catalog)
        if empty:
            yield f"passed over {counted(empty, 'row')} without bytes of an image"


def _rows(found: ShardIndex, number: int) -> NDArray[np.void]:
    rows = np.zeros(len(found.records), ROW)
    rows["file"] = number
    for name in ("label", "offset", "length", "crc"):
        rows[name] = found.records[name]
    if found.masks is not None:
        for name in ("offset", "length", "crc"):
            rows[f"mask_{name}"] = found.masks[name]
    return rows


def _read_tar(task: _Reading) -> _Found:
    found = index.find(task.file, None) or index.build(task.file, checked=False)
    index.demand_same_labels(found, task.file)
    return _Found(task.number, task.file.url, found.to_bytes())


def _read_archive(task: _Reading) -> _Found:
    url, made = unpack_archive(task.file, task.scratch, f"{task.number:06d}.tar")
    return _Found(task.number, url, made.to_bytes())


def _read_parquet(task: _Reading) -> _Found:
    url, made, unpacked = unpack_parquet(task.file, task.image, task.scratch, f"{task.number:06d}.tar")
    return _Found(task.number, url, made.to_bytes(), unpacked)
