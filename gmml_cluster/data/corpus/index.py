"""The index of a shard: where its samples are, their classes, and a CRC32C of each where every byte has been read.

A file holds a magic, the length and CRC32C of a JSON header, the header, one record a sample, where samples have masks
one record of the mask a sample, where images are compressed one record of that a sample, and the members' names.
It is beside its shard as `<shard>.index` (`<shard>.left.jpg.index` where the corpus names that image field), or in a
run root's store of indexes under a name made of the shard's URL, size, version and image field.
"""

import hashlib
import json
import logging
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, astuple, dataclass, replace
from functools import cached_property, partial
from itertools import accumulate
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus import parquet
from gmml_cluster.data.corpus.account import Account, PassedOver, Reason
from gmml_cluster.data.corpus.listing import INDEX_SUFFIX, ShardFile, index_name, split_url, store_of
from gmml_cluster.data.corpus.tar import HEADER_BLOCK_BYTES, NO_LABEL, Sample, read_samples
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.store.protocol import NotFound, Put, Store
from gmml_cluster.store.verified import read_verified

MAGIC = b"GMMLIDX3"
RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4"), ("label", "<i4")])
MASK_RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("crc", "<u4")])
EXCERPT_RECORD = np.dtype([("offset", "<u8"), ("length", "<u4"), ("inflated", "<u4"), ("codec", "u1")])
_OLDER_MAGICS = (b"GMMLIDX1", b"GMMLIDX2")
_HEADER = struct.Struct("<8sII")
_HEADER_READ_BYTES = 8192
_READ_AT_ONCE = 32  # the S3 client holds this many connections
_LIST_FROM = 64

REMAKE = "make the index again: gmml corpus index --anew, with the corpus' URL (and --root, for one in .corpora)"
"""What to do where an index is damaged or does not fit the bytes of its shard; the shard itself may be intact."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Header:
    """What an index says of its shard as a whole."""

    size: int
    """Bytes of the shard."""
    version: str
    """The shard's version when it was indexed."""
    image: str
    """Field that holds the images; empty where each sample's first image was taken."""
    samples: int
    digest: str
    """SHA-256 of the members' names and lengths."""
    crcs: str
    """First half of the SHA-256 of the samples' lengths and CRCs; empty where the CRCs have not been made."""
    labels: str
    """First half of the SHA-256 of the samples' classes."""
    labelled: int
    """Samples that have a class."""
    least_label: int
    """Least class; -1 where there is none."""
    greatest_label: int
    """Greatest class; -1 where there is none."""
    passed_over: tuple[PassedOver, ...]
    """Members that make no sample."""
    body_crc: int
    """CRC32C of the records and names."""
    masks: int = 0
    """Samples that have a mask."""
    compressed: int = 0
    """Samples whose images are compressed in the shard."""

    @property
    def checked(self) -> bool:
        """Whether the records' CRCs have been made."""
        return bool(self.crcs)


@dataclass(frozen=True)
class ShardIndex:
    """The samples of a shard."""

    header: Header
    records: NDArray[np.void]
    """One `RECORD` a sample."""
    read_names: Callable[[], bytes]
    """Names of the images' members, joined by newlines: larger than all else, and seldom wanted."""
    masks: NDArray[np.void] | None = None
    """One `MASK_RECORD` a sample, of length 0 where it has none; None where no sample has a mask."""
    excerpts: NDArray[np.void] | None = None
    """One `EXCERPT_RECORD` a sample: where to read what decompresses to what the `offset` of its `RECORD` is in; with
    `inflated` 0 of one that is not compressed; None where none is."""

    @cached_property
    def names(self) -> list[str]:
        """Name of each image's member."""
        return self.read_names().decode("utf-8", "surrogateescape").split("\n") if len(self.records) else []

    def to_bytes(self) -> bytes:
        """The file; `parse` reads it back."""
        newer = ("masks", "compressed")  # left out where 0, so that versions which know of none read it
        fields = {name: value for name, value in asdict(self.header).items() if value or name not in newer}
        header = json.dumps(fields, sort_keys=True).encode()
        start = _HEADER.pack(MAGIC, len(header), crc32c(header))
        body = (self.records.tobytes(), _bytes_of(self.masks), _bytes_of(self.excerpts), self.read_names())
        return b"".join((start, header, *body))


def _bytes_of(records: NDArray[np.void] | None) -> bytes:
    return b"" if records is None else records.tobytes()


def crc32c(data: bytes) -> int:
    """The CRC32C of some bytes."""
    value: int = google_crc32c.value(data)
    return value


def build(shard: ShardFile, *, checked: bool) -> ShardIndex:
    """Index a shard from its headers, or from every byte where `checked` or where it is a parquet file.

    Raises:
        DataError: the shard is damaged.
        StorageError: it cannot be read.
    """
    folder, name = split_url(shard.url)
    store = store_of(folder)

    def read(start: int, length: int) -> bytes:
        return store.get(name, start, length)

    account, crcs = Account(), list[int]()

    def digest(data: bytes) -> None:
        crcs.append(crc32c(data))

    if parquet.is_parquet(shard.url):
        found = parquet.read_samples(shard.url, read, shard.size, digest, image=shard.image, account=account)
    elif checked:
        found = read_samples(shard.url, read, shard.size, digest=digest, image=shard.image, account=account)
    else:
        found = read_samples(shard.url, read, shard.size, HEADER_BLOCK_BYTES, image=shard.image, account=account)
        return assemble(shard, found, account)
    return assemble(shard, found, account, crcs)


def assemble(
    shard: ShardFile, samples: Iterable[Sample], account: Account, crcs: list[int] | None = None
) -> ShardIndex:
    """The index of samples whose offsets are known; `crcs` and `account` are read when `samples` is used up.

    `crcs` are those of each sample's image and, where it has one, its mask.
    """
    listed = list(samples)
    records, masks, excerpts = np.zeros(len(listed), RECORD), np.zeros(len(listed), MASK_RECORD), _excerpts(listed)
    for field in ("offset", "length", "label"):
        records[field] = [getattr(sample, field) for sample in listed]
    for field in ("offset", "length"):
        masks[field] = [getattr(sample, f"mask_{field}") for sample in listed]
    if crcs is not None:
        waiting = iter(crcs)
        pairs = [(next(waiting), next(waiting) if sample.mask_length else 0) for sample in listed]
        records["crc"], masks["crc"] = np.array(pairs, np.uint32).reshape(-1, 2).T
    for sample in listed:
        if "\n" in sample.name:
            raise DataError(Fault(shard.url, f"member {sample.name!r}; names have no line breaks", "pack it again"))
    names = "\n".join(sample.name for sample in listed).encode("utf-8", "surrogateescape")
    masked = int(np.count_nonzero(masks["length"]))
    lengths, labels = records["length"].tobytes(), records["label"]
    crc_bytes = records["crc"].tobytes()
    if masked:  # a corpus without masks keeps the digests that it had before there were any
        lengths, crc_bytes = lengths + masks["length"].tobytes(), crc_bytes + masks["crc"].tobytes()
    has_label = labels[labels != NO_LABEL]
    header = Header(
        size=shard.size,
        version=shard.version,
        image=shard.image,
        samples=len(listed),
        digest=hashlib.sha256(names + lengths).hexdigest(),
        crcs="" if crcs is None else _half_sha256(lengths + crc_bytes),
        labels=_half_sha256(labels.tobytes()),
        labelled=len(has_label),
        least_label=int(has_label.min()) if len(has_label) else NO_LABEL,
        greatest_label=int(has_label.max()) if len(has_label) else NO_LABEL,
        passed_over=account.passed_over,
        body_crc=crc32c(records.tobytes() + _bytes_of(masks if masked else None) + _bytes_of(excerpts) + names),
        masks=masked,
        compressed=0 if excerpts is None else int(np.count_nonzero(excerpts["inflated"])),
    )
    return ShardIndex(header, records, lambda: names, masks if masked else None, excerpts)


def _excerpts(samples: Sequence[Sample]) -> NDArray[np.void] | None:
    rows = [(s.offset, s.length, 0, 0) if s.excerpt is None else astuple(s.excerpt)[:4] for s in samples]
    return np.array(rows, EXCERPT_RECORD) if any(s.excerpt for s in samples) else None


def with_version(found: ShardIndex, version: str) -> ShardIndex:
    """The index of a shard that was moved to where it has another version."""
    return replace(found, header=replace(found.header, version=version))


def parse(where: str, data: bytes) -> ShardIndex:
    """The index that `to_bytes` wrote.

    Raises:
        DataError: it is damaged.
    """
    header, start = parse_header(where, data)
    kinds = [RECORD, *[MASK_RECORD][: header.masks], *[EXCERPT_RECORD][: header.compressed]]
    ends = list(accumulate((header.samples * kind.itemsize for kind in kinds), initial=start))
    if len(data) < ends[-1] or crc32c(data[start:]) != header.body_crc:
        raise DataError(Fault(where, "the index is damaged: its records disagree with their checksum", REMAKE))
    found = {kind: np.frombuffer(data, kind, header.samples, at) for kind, at in zip(kinds, ends, strict=False)}
    return ShardIndex(
        header, found[RECORD], lambda: data[ends[-1] :], found.get(MASK_RECORD), found.get(EXCERPT_RECORD)
    )


def parse_header(where: str, data: bytes) -> tuple[Header, int]:
    """The header of an index, and where its records begin; `data` may end anywhere behind the header.

    Raises:
        DataError: it is no index, or damaged.
    """
    try:
        magic, length, crc = _HEADER.unpack_from(data)
        text = data[_HEADER.size : _HEADER.size + length]
        if magic != MAGIC:
            raise ValueError(f"it begins with {magic!r}")
        if crc32c(text) != crc:
            raise ValueError("its header disagrees with its checksum")
        fields = json.loads(text)
        passed = tuple(PassedOver(**{**row, "reason": Reason(row["reason"])}) for row in fields["passed_over"])
        return Header(**{**fields, "passed_over": passed}), _HEADER.size + length
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise DataError(Fault(where, f"is not a valid index of a shard ({error})", REMAKE)) from error


def find_header(shard: ShardFile, indexes: Store | None) -> Header | None:
    """The header of the shard's index, beside it or in the store of indexes; None where there is none that fits.

    Raises:
        DataError: an index stays damaged although it was read several times.
        StorageError: a store does not answer.
    """
    return _first_fitting(_locations(shard, indexes), shard)


def find_headers(shards: Sequence[ShardFile], indexes: Store | None) -> list[Header | None]:
    """`find_header` of many shards that were just listed, several at once.

    An object store answers a request in some 50 ms, so none is sent for an index that a listing shows to be absent.

    Raises:
        DataError: an index stays damaged although it was read several times.
        StorageError: a store does not answer.
    """
    stored: set[str] | None = None
    if indexes is not None and len(shards) >= _LIST_FROM:
        stored = {found.name for found in indexes.list_objects()}

    def one(shard: ShardFile) -> Header | None:
        beside = [] if shard.has_index is False else [_beside(shard)]
        name = stored_name(shard)
        elsewhere = [] if indexes is None or (stored is not None and name not in stored) else [(indexes, name)]
        return _first_fitting([*beside, *elsewhere], shard)

    with ThreadPoolExecutor(_READ_AT_ONCE) as pool:
        return list(pool.map(one, shards))


def stored_header(shard: ShardFile, indexes: Store) -> Header | None:
    """The header of the index in the store of indexes, which is of just this version of the shard."""
    return next(_headers([(indexes, stored_name(shard))]), None)


def find(shard: ShardFile, indexes: Store | None) -> ShardIndex | None:
    """The shard's index, beside it or in the store of indexes; None where there is none that fits.

    The whole file is read into memory, and its names are dropped: a memory-mapped file would keep its descriptor open,
    and a corpus has more shards than a process may have files (1,024 by default).

    Raises:
        DataError: an index stays damaged although it was read several times.
        StorageError: a store does not answer.
    """
    for store, name in _locations(shard, indexes):
        where = f"{store.url}/{name}"
        data = _read(store, name, parse)
        if data is None:
            continue
        found = parse(where, data)
        if fits(found.header, shard):
            own = [None if each is None else each.copy() for each in (found.masks, found.excerpts)]
            return ShardIndex(found.header, found.records.copy(), partial(_read_names, store, name), *own)
    return None


def _read_names(store: Store, name: str) -> bytes:
    """The names in an index, which may have been made again since its records were read."""
    return parse(f"{store.url}/{name}", store.get(name)).read_names()


def put(made: ShardIndex, shard: ShardFile, indexes: Store | None) -> None:
    """Keep an index: in a store of indexes, or beside its shard where that is None.

    Raises:
        StorageError: it cannot be written there.
    """
    if indexes is None:
        store, name = _beside(shard)
        store.put(name, made.to_bytes())
    else:
        put_stored(made, shard, indexes.put)


def put_stored(made: ShardIndex, shard: ShardFile, put: Put) -> None:
    """Keep an index in the store of indexes whose `put`, or a function of its `put_many`, is given."""
    put(stored_name(shard), made.to_bytes())


def fits(header: Header, shard: ShardFile) -> bool:
    """Whether an index may be used for a shard.

    By size and version; by size alone where it has CRCs, so that packed shards may be copied: a CRC shows at each read
    whether the image is another. What uses classes must ask `Pin.labels_of`, which reads those of a copy again.
    """
    same_file = header.size == shard.size and header.image == shard.image
    return same_file and (header.checked or header.version == shard.version)


def demand_same_labels(found: ShardIndex, shard: ShardFile) -> None:
    """Read a shard's headers and classes again where its index is of another version, as of a copy.

    Raises:
        DataError: the index has other samples or classes than the shard.
        StorageError: a store does not answer.
    """
    if found.header.version == shard.version:
        return
    now = build(shard, checked=False).header
    if (now.digest, now.labels) != (found.header.digest, found.header.labels):
        what = "holds other samples or classes than its index, which was made of an earlier version"
        raise DataError(Fault(shard.url, what, REMAKE))


def stored_name(shard: ShardFile) -> str:
    """Name of a shard's index in a store of indexes."""
    parts: list[Any] = [shard.url, shard.size, shard.version, *([shard.image] if shard.image else [])]
    return f"{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}{INDEX_SUFFIX}"


def _locations(shard: ShardFile, indexes: Store | None) -> list[tuple[Store, str]]:
    return [_beside(shard)] if indexes is None else [_beside(shard), (indexes, stored_name(shard))]


def _beside(shard: ShardFile) -> tuple[Store, str]:
    folder, name = split_url(shard.url)
    return store_of(folder), index_name(name, shard.image)


def _first_fitting(locations: Iterable[tuple[Store, str]], shard: ShardFile) -> Header | None:
    return next((header for header in _headers(locations) if fits(header, shard)), None)


def _headers(locations: Iterable[tuple[Store, str]]) -> Iterator[Header]:
    for store, name in locations:
        data = _read(store, name, parse_header, _HEADER_READ_BYTES)
        if data is not None:
            yield parse_header(f"{store.url}/{name}", data)[0]


def _read(store: Store, name: str, check: Callable[[str, bytes], object], length: int | None = None) -> bytes | None:
    """The bytes of an index, read again while they are damaged; None where there is none of this version."""
    where = f"{store.url}/{name}"

    def check_if_new(data: bytes) -> None:
        if not data.startswith(_OLDER_MAGICS):
            check(where, data)

    try:
        data = read_verified(lambda: store.get(name, 0, length), check_if_new)
    except NotFound:
        return None
    if data.startswith(_OLDER_MAGICS):
        _log.info("%s: an index of an older version, without a checksum of the classes; it is made again", where)
        return None
    return data


def _half_sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:32]
