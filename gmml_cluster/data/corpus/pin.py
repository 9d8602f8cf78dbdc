"""The corpora of a run as its first attempt pinned them: shards with sizes, versions and counts, and where samples are.

What changed since the pin is a fault that names the shard.
"""

import hashlib
import json
import threading
from array import array
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from itertools import repeat
from types import MappingProxyType
from typing import Protocol

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from gmml_cluster.data.corpus import index, merged
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.index import Header, ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile, list_shards, split_url, store_of
from gmml_cluster.data.corpus.pinned import PinnedCorpus, PinnedShard, PinnedShards, from_bytes, to_bytes
from gmml_cluster.data.corpus.summary import Summary, summarise
from gmml_cluster.errors import DataError, Fault, ShardChanged, SpecError
from gmml_cluster.plan.sample_layout import CorpusShape
from gmml_cluster.progress import progress
from gmml_cluster.store.open import scheme_of
from gmml_cluster.store.protocol import Put, Store
from gmml_cluster.wording import counted

_INDEXED_AT_ONCE = 8
_KEPT_AT_ONCE = 512
"""Indexes that are written together; what an attempt that is killed had written before is there for the next."""
_REASONS_SHOWN = 3
_LOADED_BYTES = 512 * 2**20
"""Records of indexes that a process holds, for some 26 million samples; beyond, the longest unused are read again."""


class CorpusLike(Protocol):
    """What a pin needs of a job's corpus (`spec.job.CorpusSpec`)."""

    @property
    def url(self) -> str: ...

    @property
    def weight(self) -> float: ...

    @property
    def samples(self) -> int | None: ...

    @property
    def image(self) -> str | None: ...


@dataclass(frozen=True)
class CorpusUrl:
    """A corpus apart from a job."""

    url: str
    image: str | None = None
    weight: float = 1.0
    samples: int | None = None


@dataclass(frozen=True)
class Located:
    """Where one sample is."""

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
        indexes: where indexes are that are not beside their shards, `<root>/.corpora`.
        made: indexes that exist in memory alone, so are never dropped.
        digest: of the document that they were read from; empty where there is none yet.

    Attributes:
        summaries: what each corpus holds, where this process pinned it; else empty.
    """

    def __init__(
        self,
        corpora: Sequence[PinnedCorpus],
        indexes: Store | None = None,
        made: Mapping[ShardFile, ShardIndex] = MappingProxyType({}),
        summaries: Sequence[Summary] = (),
        digest: str = "",
    ) -> None:
        self.corpora = tuple(corpora)
        self._read_digest = digest
        self.summaries = tuple(summaries)
        self._indexes = indexes
        self._starts = [np.cumsum(np.append(0, corpus.shards.samples)) for corpus in corpora]
        self._made = dict(made)
        self._loaded: LRUCache[ShardFile, ShardIndex] = LRUCache(
            _LOADED_BYTES, getsizeof=lambda found: min(max(_held_bytes(found), 1), _LOADED_BYTES)
        )
        self._loaded_lock = threading.Lock()
        self._shard_locks: dict[ShardFile, threading.Lock] = {}
        self._labels_confirmed: set[ShardFile] = set()

    @cached_property
    def digest(self) -> str:
        """Digest of everything pinned: of the document that was read, else of the one that `to_bytes` gives."""
        return self._read_digest or hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def files(self) -> list[ShardFile]:
        """All shards, with the sizes and versions that were pinned."""
        return [shard.file for corpus in self.corpora for shard in corpus.shards]

    @cached_property
    def shapes(self) -> tuple[CorpusShape, ...]:
        """What the order needs of each corpus: 8 bytes a shard."""
        return tuple(CorpusShape(c.weight, array("q", c.shards.samples.tobytes())) for c in self.corpora)

    def to_bytes(self) -> bytes:
        """The document that a run keeps; `from_bytes` reads it back."""
        return to_bytes(self.corpora)

    @classmethod
    def from_bytes(cls, data: bytes, indexes: Store | None = None) -> "Pin":
        """The pin of a document of this version or an earlier one; no index is read yet.

        Raises:
            DataError: it is no such document.
        """
        corpora, digest = from_bytes(data)
        return cls(corpora, indexes, digest=digest)

    def locate(self, corpus: int, y: int) -> Located:
        """Where sample y of a corpus is.

        Raises:
            StorageError: its index cannot be read, or its shard is gone or changed since it was pinned.
        """
        shard, number = self.shard_of(corpus, y)
        found = self.index_of(shard)
        record = found.records[number]
        return Located(
            shard=shard.file.url,
            index=number,
            member=found.names[number],
            offset=int(record["offset"]),
            length=int(record["length"]),
            crc=int(record["crc"]) if found.header.checked else None,
            label=int(record["label"]),
        )

    def shard_of(self, corpus: int, y: int) -> tuple[PinnedShard, int]:
        """The shard of sample y, and the sample's number in it."""
        starts = self._starts[corpus]
        number = int(np.searchsorted(starts, y, side="right")) - 1
        return self.corpora[corpus].shards[number], y - int(starts[number])

    def index_of(self, shard: PinnedShard) -> ShardIndex:
        """The shard's index; read where it is not in memory, and made again where it was deleted.

        Raises:
            ShardChanged: the shard is not what was pinned.
            DataError: the index stays damaged, or has another number of samples than was pinned.
            StorageError: a store does not answer.
        """
        found = self._in_memory(shard.file)
        if found is None:
            with self._shard_locks.setdefault(shard.file, threading.Lock()):
                found = self._in_memory(shard.file) or self._keep(shard.file, self._load(shard))
        return found

    def labels_of(self, shard: PinnedShard) -> NDArray[np.int32]:
        """The classes of a shard's samples, -1 where there is none.

        An index may be of a copy of the shard with another version, as CRCs show whether an image is another. No CRC
        protects a class, so there the shard's headers and classes are read again.

        Raises:
            DataError: the index has other samples or classes than the shard.
            StorageError: a store does not answer.
        """
        found = self.index_of(shard)
        if found.header.version != shard.file.version and shard.file not in self._labels_confirmed:
            index.demand_same_labels(found, shard.file)
            self._labels_confirmed.add(shard.file)
        return np.asarray(found.records["label"], np.int32)

    def make_checked(self, shard: PinnedShard) -> bool:
        """Read a whole shard and keep an index with CRCs, if it has none; samples located from then on have them.

        Returns:
            Whether it was read.

        Raises:
            DataError: it is damaged, or changed while it was read.
            StorageError: it cannot be read, or changed before, or the index not be kept.
        """
        if shard.crcs or self._indexes is None:
            return False
        stored = index.stored_header(shard.file, self._indexes)
        if stored is not None and stored.checked:
            return False
        before, made = self.index_of(shard), index_checked(shard.file, self._indexes)
        if made.header.digest != before.header.digest:
            raise DataError(Fault(shard.file.url, "holds other members than its index", index.REMAKE))
        self._keep(shard.file, self._load(shard))
        return True

    def _in_memory(self, file: ShardFile) -> ShardIndex | None:
        with self._loaded_lock:
            return self._made.get(file) or self._loaded.get(file)

    def _keep(self, file: ShardFile, found: ShardIndex) -> ShardIndex:
        with self._loaded_lock:
            self._loaded[file] = found
        return found

    def _load(self, shard: PinnedShard) -> ShardIndex:
        verify_shard(shard)
        found = index.find(shard.file, self._indexes) or _make(shard.file, self._indexes, checked=bool(shard.crcs))
        if found.header.samples != shard.samples:
            what = f"its index has {counted(found.header.samples, 'sample')}, {shard.samples} were pinned"
            raise DataError(Fault(shard.file.url, what, index.REMAKE))
        return found


def verify_shard(shard: PinnedShard) -> None:
    """Check that a shard still is what was pinned.

    Raises:
        ShardChanged: its size or version differs.
        StorageError: the store does not answer, or the shard is gone.
    """
    folder, name = split_url(shard.file.url)
    now = store_of(folder).stat(name)
    if (now.size, now.version) != (shard.file.size, shard.file.version):
        was = f"{shard.file.size} bytes, version {shard.file.version} when the run began"
        what = f"{now.size} bytes, version {now.version}, but {was}; a run's shards never change"
        raise ShardChanged(Fault(shard.file.url, what, "put it back or start a new run"))


def pin(corpora: Sequence[CorpusLike], indexes: Store | None = None, *, checked: bool = True) -> Pin:
    """List, index and pin the corpora of a run. A shard without an index that fits is indexed.

    Args:
        corpora: as the spec has them.
        indexes: where indexes are that are not beside their shards.
        checked: whether object stores are read in full for new indexes, so that their samples get CRCs (a folder's
            shards are read by their headers), and new indexes put into `indexes`. Otherwise headers alone are read
            and nothing is put anywhere.

    Raises:
        SpecError: a corpus has another number of samples than its spec says, or none.
        DataError: a shard is missing or damaged, or a corpus apart from a job holds no sample.
        StorageError: a store does not answer.
    """
    made: dict[ShardFile, ShardIndex] = {}
    found = [_pin_corpus(corpus, indexes, made, checked=checked) for corpus in corpora]
    faults = [
        fault
        for c, (spec, (_, summary)) in enumerate(zip(corpora, found, strict=True))
        for fault in _faults(c, spec, summary)
    ]
    if faults:
        raise SpecError(faults)
    return Pin([pinned for pinned, _ in found], indexes, made, [summary for _, summary in found])


def _faults(c: int, spec: CorpusLike, found: Summary) -> list[Fault]:
    samples, where = found.samples, f"data.corpora.{c}"
    if samples == 0:
        reasons = "".join(f"; {passed}" for passed in found.passed_over[:_REASONS_SHOWN])
        what = f"holds no sample; images end in .jpg, .jpeg, .png or .webp{reasons}"
        if isinstance(spec, CorpusUrl):  # no job, so no field of one to point at
            raise DataError(Fault(spec.url, what, "check the shards"))
        return [Fault(f"{where}.url", f"{spec.url} {what}", "check the shards")]
    if spec.samples not in (None, samples):
        what = f"{spec.samples}, but the index counts {samples}"
        return [Fault(f"{where}.samples", what, "correct it or leave it out")]
    return []


def _pin_corpus(
    corpus: CorpusLike, indexes: Store | None, made: dict[ShardFile, ShardIndex], *, checked: bool
) -> tuple[PinnedCorpus, Summary]:
    """Pin one corpus; indexes that had to be made and are kept in no store are added to `made`."""
    files = list_shards(corpus.url, corpus.image)
    keep = indexes.put_many if indexes is not None and checked else None

    def indexed(file: ShardFile, put: Put | None) -> Header:
        new = _build(file) if checked else index.build(file, checked=False)
        if put is None:
            made[file] = new
        else:
            index.put_stored(new, file, put)
        return new.header

    known = merged.known_headers(files, indexes)
    found = merged.completed(known, files, indexes)
    without = [file for file, header in zip(files, found, strict=True) if header is None]
    made_now: list[Header] = []
    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool, progress(f"reading {corpus.url}", len(without)) as advance:
        for start in range(0, len(without), _KEPT_AT_ONCE):
            with keep() if keep else nullcontext() as put:
                for header in pool.map(indexed, without[start : start + _KEPT_AT_ONCE], repeat(put)):
                    made_now.append(header)
                    advance(1)
    following = iter(made_now)
    headers = [next(following) if header is None else header for header in found]
    if keep and None in known:
        merged.put(files, headers, indexes)
    rows = [PinnedShard(file, h.samples, h.crcs, h.labels) for file, h in zip(files, headers, strict=True)]
    shards, image = PinnedShards.of(rows, corpus.image or ""), corpus.image or ""
    pinned = PinnedCorpus(corpus.url, corpus.weight, _identity(files, headers), shards, image)
    return pinned, summarise(headers)


def _held_bytes(found: ShardIndex) -> int:
    return sum(each.nbytes for each in (found.records, found.masks, found.excerpts) if each is not None)


def _make(file: ShardFile, indexes: Store | None, *, checked: bool) -> ShardIndex:
    made = _build(file, checked=checked)
    if indexes is not None:
        index.put(made, file, indexes)
    return made


def _build(file: ShardFile, *, checked: bool = False) -> ShardIndex:
    return index.build(file, checked=checked or scheme_of(file.url) == "s3")


def _identity(files: Sequence[ShardFile], headers: Sequence[Header]) -> str:
    rows = [[file.name, header.samples, header.digest] for file, header in zip(files, headers, strict=True)]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
