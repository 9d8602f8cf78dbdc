"""Corpora as a run pinned them: a table of each corpus' shards, and how a pin is written and read."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.columns import Column, pack, unpack
from gmml_cluster.data.corpus.listing import ShardFile, common_beginning

VERSION = 2
"""Of the document; 1 is JSON, with a row for each shard."""
_FIELDS = ("url", "size", "version", "samples", "crcs", "labels")
_HELD = 4096
"""Shards that are kept as objects; the others are made of the table when they are asked for."""


@dataclass(frozen=True)
class PinnedShard:
    """A shard as it was when the run began."""

    file: ShardFile
    samples: int
    crcs: str = ""
    """`Header.crcs` of its index; empty where it had no CRCs."""
    labels: str = ""
    """`Header.labels` of its index; empty in pins of versions that had none."""


class PinnedShards(Sequence[PinnedShard]):
    """The shards of a corpus, which take some 100 bytes each until they are asked for.

    Args:
        columns: `_FIELDS`, of the URLs what follows `prefix`.
        prefix: beginning of all URLs.
        image: field that holds the images; empty takes each sample's first image.
    """

    def __init__(self, columns: Mapping[str, Column], prefix: str, image: str) -> None:
        self.columns, self.prefix, self._image = columns, prefix, image
        self._at = lru_cache(_HELD)(lambda row: self._rows(row, row + 1)[0])

    @classmethod
    def of(cls, shards: Sequence[PinnedShard], image: str) -> "PinnedShards":
        """The table of some shards, all with this field of images."""
        urls = [shard.file.url for shard in shards]
        prefix = common_beginning(min(urls), max(urls)) if urls else ""
        columns = {
            "url": Column.of_texts([url[len(prefix) :] for url in urls]),
            "size": Column.of_numbers([shard.file.size for shard in shards]),
            "version": Column.of_texts([shard.file.version for shard in shards]),
            "samples": Column.of_numbers([shard.samples for shard in shards]),
            "crcs": Column.of_texts([shard.crcs for shard in shards]),
            "labels": Column.of_texts([shard.labels for shard in shards]),
        }
        return cls(columns, prefix, image)

    @property
    def samples(self) -> NDArray[np.int64]:
        """Samples of each shard (n,)."""
        return self.columns["samples"].numbers

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Bytes of each shard (n,)."""
        return self.columns["size"].numbers

    def __len__(self) -> int:
        return self.columns["size"].rows

    @overload
    def __getitem__(self, at: int) -> PinnedShard: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[PinnedShard]: ...

    def __getitem__(self, at: int | slice) -> PinnedShard | Sequence[PinnedShard]:
        rows = range(len(self))[at]
        return self._at(rows) if isinstance(rows, int) else [self._at(row) for row in rows]

    def __iter__(self) -> Iterator[PinnedShard]:
        for start in range(0, len(self), _HELD):
            yield from self._rows(start, min(start + _HELD, len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(PinnedShard.__eq__, self, other))

    __hash__ = None  # type: ignore[assignment]

    def _rows(self, start: int, stop: int) -> list[PinnedShard]:
        urls, versions, crcs, labels = (
            self.columns[name].texts(start, stop) for name in ("url", "version", "crcs", "labels")
        )
        sizes, samples = (column[start:stop].tolist() for column in (self.sizes, self.samples))
        return [
            PinnedShard(ShardFile(self.prefix + url, size, version, self._image), count, crc, label)
            for url, size, version, count, crc, label in zip(urls, sizes, versions, samples, crcs, labels, strict=True)
        ]


@dataclass(frozen=True)
class PinnedCorpus:
    """A corpus as it was when the run began."""

    url: str
    """As the spec has it."""
    weight: float
    identity: str
    """SHA-256 of the shards' names, counts, and their samples' names and lengths; their folder does not enter."""
    shards: PinnedShards
    image: str = ""
    """Field that holds the images; empty takes each sample's first image."""


def to_bytes(corpora: Sequence[PinnedCorpus]) -> bytes:
    """The document; `from_bytes` reads it back, and its SHA-256 is the digest of the pin."""
    about = [
        {
            "url": corpus.url,
            "weight": corpus.weight,
            "identity": corpus.identity,
            "image": corpus.image,
            "prefix": corpus.shards.prefix,
        }
        for corpus in corpora
    ]
    columns = {f"{c}.{name}": corpus.shards.columns[name] for c, corpus in enumerate(corpora) for name in _FIELDS}
    return pack({"version": VERSION, "corpora": about}, columns)


def from_bytes(data: bytes) -> tuple[list[PinnedCorpus], str]:
    """The corpora of a document of any version, and the digest of their pin.

    Raises:
        DataError: it is no such document.
    """
    if data.startswith(b"{"):
        return _from_json(data)
    digest = hashlib.sha256(data).hexdigest()
    about, columns = unpack(f"pin {digest[:12]}", data)
    return [_corpus(c, given, columns) for c, given in enumerate(about["corpora"])], digest


def _corpus(c: int, given: Mapping[str, Any], columns: Mapping[str, Column]) -> PinnedCorpus:
    own = {name: columns[f"{c}.{name}"] for name in _FIELDS}
    shards = PinnedShards(own, given["prefix"], given["image"])
    return PinnedCorpus(given["url"], given["weight"], given["identity"], shards, given["image"])


def _from_json(data: bytes) -> tuple[list[PinnedCorpus], str]:
    corpora = json.loads(data)["corpora"]
    digest = hashlib.sha256(json.dumps(corpora, sort_keys=True).encode()).hexdigest()
    return [_corpus_of_json(each) for each in corpora], digest


def _corpus_of_json(given: Mapping[str, Any]) -> PinnedCorpus:
    image = given.get("image", "")
    rows = [PinnedShard(ShardFile(row[0], row[1], row[2], image), *row[3:]) for row in given["shards"]]
    return PinnedCorpus(given["url"], given["weight"], given["identity"], PinnedShards.of(rows, image), image)
