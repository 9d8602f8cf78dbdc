"""The corpora of a run as pinned by its first attempt: shards with sizes, versions and counts, and where samples lie.

What changed since the pin is a fault that names the shard.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.index import Header, ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile, list_shards, split_url, stat_all, store_of
from gmml_cluster.errors import DataError, Fault, ShardChanged, SpecError
from gmml_cluster.plan.sample_layout import CorpusShape
from gmml_cluster.store.protocol import Store

_INDEXED_AT_ONCE = 8


class CorpusLike(Protocol):
    """What a pin needs of a job's corpus (`spec.job.Corpus`)."""

    @property
    def url(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def samples(self) -> int | None: ...


@dataclass(frozen=True)
class PinnedShard:
    """A shard as it was when the run began."""

    file: ShardFile
    samples: int
    crcs: str = ""
    """What the index said of its samples' lengths and CRCs; empty where it had no CRCs."""


@dataclass(frozen=True)
class PinnedCorpus:
    """A corpus as it was when the run began."""

    url: str
    """As the spec has it."""
    weight: float
    identity: str
    """SHA-256 of the shards' names, counts, and their samples' names and lengths; where they lie does not enter."""
    shards: tuple[PinnedShard, ...]


@dataclass(frozen=True)
class Located:
    """Where one sample lies."""

    shard: str
    """URL of the shard."""
    index: int
    """Number of the sample within the shard."""
    member: str
    """Name of the image's member."""
    offset: int
    length: int
    crc: int | None
    """CRC32C of the image's bytes; None where no index has it."""
    label: int
    """Class, or -1."""

    def __str__(self) -> str:
        return f"{self.shard}, member {self.member}"


class Pin:
    """The pinned corpora. Indexes are loaded shard by shard, when a sample is first located; thread-safe.

    Args:
        corpora: as pinned.
        indexes: where indexes lie that are not beside their shards, `<root>/.corpora`.
        loaded: indexes that are at hand already.
    """

    def __init__(
        self,
        corpora: Sequence[PinnedCorpus],
        indexes: Store | None = None,
        loaded: Mapping[ShardFile, ShardIndex] = MappingProxyType({}),
    ) -> None:
        self.corpora = tuple(corpora)
        self._indexes = indexes
        self._starts = [np.cumsum([0, *(shard.samples for shard in corpus.shards)]) for corpus in corpora]
        self._loaded = dict(loaded)
        self._locks: dict[ShardFile, threading.Lock] = {}

    @property
    def digest(self) -> str:
        """Digest of everything pinned."""
        return hashlib.sha256(json.dumps(self.to_json()["corpora"], sort_keys=True).encode()).hexdigest()

    @property
    def files(self) -> list[ShardFile]:
        """All shards, with the sizes and versions that were pinned."""
        return [shard.file for corpus in self.corpora for shard in corpus.shards]

    @property
    def shapes(self) -> tuple[CorpusShape, ...]:
        """What the order needs of each corpus."""
        return tuple(CorpusShape(c.weight, tuple(shard.samples for shard in c.shards)) for c in self.corpora)

    def to_json(self) -> dict[str, Any]:
        """Plain mapping; `from_json` reads it back."""
        return {
            "corpora": [
                {
                    "url": corpus.url,
                    "weight": corpus.weight,
                    "identity": corpus.identity,
                    "shards": [[s.file.url, s.file.size, s.file.version, s.samples, s.crcs] for s in corpus.shards],
                }
                for corpus in self.corpora
            ]
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any], indexes: Store | None = None) -> "Pin":
        """The pin that `to_json` wrote; nothing is read yet."""
        return cls(
            [
                PinnedCorpus(
                    corpus["url"],
                    corpus["weight"],
                    corpus["identity"],
                    tuple(PinnedShard(ShardFile(*row[:3]), *row[3:]) for row in corpus["shards"]),
                )
                for corpus in given["corpora"]
            ],
            indexes,
        )

    def locate(self, corpus: int, y: int) -> Located:
        """Where sample y of a corpus lies.

        Raises:
            StorageError: its index cannot be read, or its shard is gone or changed since it was pinned.
        """
        shard, place = self.shard_of(corpus, y)
        found = self.index_of(shard)
        record = found.records[place]
        return Located(
            shard=shard.file.url,
            index=place,
            member=found.names[place],
            offset=int(record["offset"]),
            length=int(record["length"]),
            crc=int(record["crc"]) if found.header.checked else None,
            label=int(record["label"]),
        )

    def shard_of(self, corpus: int, y: int) -> tuple[PinnedShard, int]:
        """The shard of sample y, and the sample's number in it."""
        starts = self._starts[corpus]
        place = int(np.searchsorted(starts, y, side="right")) - 1
        return self.corpora[corpus].shards[place], y - int(starts[place])

    def index_of(self, shard: PinnedShard) -> ShardIndex:
        """The shard's index: loaded once, made again where it was deleted; the shard must be what was pinned."""
        found = self._loaded.get(shard.file)
        if found is None:
            with self._locks.setdefault(shard.file, threading.Lock()):
                found = self._loaded.get(shard.file) or self._load(shard)
                self._loaded[shard.file] = found
        return found

    def make_checked(self, shard: PinnedShard) -> bool:
        """Read a shard whole and keep an index with CRCs, if it has none; samples located from then on have them.

        Returns:
            Whether it was read.

        Raises:
            DataError: it is damaged, or changed while it was read.
            StorageError: it cannot be read, or changed before, or the index not be kept.
        """
        if shard.crcs or self._indexes is None or index.stored_crcs(shard.file, self._indexes):
            return False
        before, made = self.index_of(shard), index_checked(shard.file, self._indexes)
        if made.header.digest != before.header.digest:
            raise DataError(f"{shard.file.url}: its index tells of other members; delete the index, it is made again")
        self._loaded[shard.file] = self._load(shard)
        return True

    def _load(self, shard: PinnedShard) -> ShardIndex:
        verify_shard(shard)
        found = index.find(shard.file, self._indexes) or _make(shard.file, self._indexes)
        if found.header.samples != shard.samples:
            what = f"its index has {found.header.samples} samples, {shard.samples} were pinned"
            raise DataError(f"{shard.file.url}: {what}; an index never changes; delete it, it is made again")
        return found


def verify_shard(shard: PinnedShard) -> None:
    """Check that a shard still is what was pinned.

    Raises:
        ShardChanged: its size or version differs.
        StorageError: it cannot be asked for, or is gone.
    """
    folder, name = split_url(shard.file.url)
    now = store_of(folder).stat(name)
    if (now.size, now.version) != (shard.file.size, shard.file.version):
        was = f"{shard.file.size} bytes, version {shard.file.version} when the run began"
        what = f"{now.size} bytes, version {now.version}, but {was}"
        raise ShardChanged(f"{shard.file.url}: {what}; a run's shards never change; put it back or start a new run")


def repin(pinned: Pin, indexes: Store) -> Pin:
    """The pin with the present sizes and versions of its shards, if their samples are those that were pinned.

    Proof are equal lengths and CRCs: of an index made of just the present version, and else of every byte.

    Raises:
        ShardChanged: a shard holds other samples, is gone, or its samples had no CRCs that could prove anything.
        StorageError: a store does not answer.
    """
    shards = [shard for corpus in pinned.corpora for shard in corpus.shards]
    listed = {file.url: file for file in stat_all(file.url for file in pinned.files)}
    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool:
        now = iter(list(pool.map(lambda shard: _repinned(shard, listed.get(shard.file.url), indexes), shards)))
    return Pin([replace(c, shards=tuple(islice(now, len(c.shards)))) for c in pinned.corpora], indexes)


def _repinned(shard: PinnedShard, now: ShardFile | None, indexes: Store) -> PinnedShard:
    if now == shard.file:
        return shard
    if now is None:
        raise ShardChanged(f"{shard.file.url}: is gone; a run's shards never change; put it back")
    known = shard.crcs or index.stored_crcs(shard.file, indexes)
    if not known:
        told = "its size or version changed, and it had no CRCs which could prove that its samples are the same"
        raise ShardChanged(f"{shard.file.url}: {told}; put the old file back, with its time, or start a new run")
    try:
        found = _crcs_of_version(now, indexes) or index_checked(now, indexes).header.crcs
    except DataError as error:
        raise ShardChanged(f"{error}; it was whole when the run began") from error
    if found != known:
        told = "holds other samples than when the run began"
        raise ShardChanged(f"{shard.file.url}: {told}; a run's shards never change; put it back or start a new run")
    return replace(shard, file=now, crcs=known)


def _crcs_of_version(shard: ShardFile, indexes: Store) -> str:
    """`Header.crcs` of an index of the shard's present version; one that fits by size may speak of older bytes."""
    header = index.find_header(shard, indexes)
    if header is not None and header.checked and header.version == shard.version:
        return header.crcs
    return index.stored_crcs(shard, indexes)


def pin(corpora: Sequence[CorpusLike], indexes: Store | None = None, *, checked: bool = True) -> Pin:
    """List, index and pin the corpora of a run. A shard without an index that fits is indexed.

    Args:
        corpora: as the spec has them.
        indexes: where indexes lie that are not beside their shards.
        checked: whether object stores are read in full for new indexes, so that their samples get CRCs (a folder's
            shards are read by their headers), and new indexes put into `indexes`. Otherwise headers alone are read
            and nothing is put anywhere.

    Raises:
        SpecError: a corpus has another number of samples than its spec says, or none.
        DataError: a shard is missing or damaged.
        StorageError: a store does not answer.
    """
    made: dict[ShardFile, ShardIndex] = {}
    pinned = [_pin_corpus(corpus, indexes, made, checked=checked) for corpus in corpora]
    faults = [
        fault for c, (spec, found) in enumerate(zip(corpora, pinned, strict=True)) for fault in _faults(c, spec, found)
    ]
    if faults:
        raise SpecError(faults)
    return Pin(pinned, indexes, made)


def _faults(c: int, spec: CorpusLike, found: PinnedCorpus) -> list[Fault]:
    samples, where = sum(shard.samples for shard in found.shards), f"data.corpora.{c}"
    if samples == 0:
        return [
            Fault(f"{where}.url", f"{spec.url} holds no sample; images end in .jpg, .png or .webp; check the shards")
        ]
    if spec.samples not in (None, samples):
        return [
            Fault(f"{where}.samples", f"{spec.samples}, but the index counts {samples}; correct it or leave it out")
        ]
    return []


def _pin_corpus(
    corpus: CorpusLike, indexes: Store | None, made: dict[ShardFile, ShardIndex], *, checked: bool
) -> PinnedCorpus:
    """Pin one corpus; indexes that had to be made and are put nowhere are left in `made`."""

    def header(file: ShardFile) -> Header:
        found = index.find_header(file, indexes)
        if found is not None:
            return found
        new = _make(file, indexes) if checked else index.build(file, checked=False)
        if indexes is None or not checked:
            made[file] = new
        return new.header

    files = list_shards(corpus.url)
    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool:
        headers = list(pool.map(header, files))
    shards = tuple(PinnedShard(file, h.samples, h.crcs) for file, h in zip(files, headers, strict=True))
    return PinnedCorpus(corpus.url, corpus.weight, _identity(files, headers), shards)


def _make(file: ShardFile, indexes: Store | None) -> ShardIndex:
    made = index.build(file, checked=file.url.startswith("s3://"))
    if indexes is not None:
        index.put(made, file, indexes)
    return made


def _identity(files: Sequence[ShardFile], headers: Sequence[Header]) -> str:
    rows = [[file.name, header.samples, header.digest] for file, header in zip(files, headers, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
