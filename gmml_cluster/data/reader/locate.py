"""Where samples lie in their shards: many in one call, as a lookup of one costs more than its share of many."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.index import MASK_RECORD, ShardIndex
from gmml_cluster.data.corpus.pages import Excerpt
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.corpus.pinned import PinnedShard
from gmml_cluster.data.random.philox import Ints

Indexes = Callable[[Sequence[PinnedShard]], Iterable[ShardIndex]]


class Wanted(NamedTuple):
    """A sample by corpus and index in it."""

    corpus: int
    y: int


@dataclass(frozen=True)
class Pieces:
    """Where some samples lie; lists of one length, in the order they were asked for."""

    corpora: Sequence[int]
    """Number of each sample's corpus."""
    ys: Sequence[int]
    """Index of the sample in its corpus."""
    shards: Sequence[PinnedShard]
    indexes: Sequence[int]
    """Number of the sample in its shard."""
    offsets: Sequence[int]
    lengths: Sequence[int]
    crcs: Sequence[int | None]
    """CRC32C of the image's bytes; None where the shard's index has none."""
    excerpts: Sequence[Excerpt | None]
    """How the image is a part of what lies at `offsets`, where it is compressed there; else None."""

    def __len__(self) -> int:
        return len(self.ys)

    @property
    def samples(self) -> list[Wanted]:
        """The samples by themselves; made anew at each call."""
        return list(map(Wanted, self.corpora, self.ys))

    def sample(self, slot: int) -> Wanted:
        """One of the samples."""
        return Wanted(self.corpora[slot], self.ys[slot])

    def part(self, some: slice) -> "Pieces":
        """Some of them."""
        return Pieces(*(values[some] for values in self._lists))  # type: ignore[arg-type]

    def joined(self, other: "Pieces") -> "Pieces":
        """These, then the others."""
        pairs = zip(self._lists, other._lists, strict=True)
        return Pieces(*([*ours, *theirs] for ours, theirs in pairs))  # type: ignore[arg-type]

    @property
    def _lists(self) -> tuple[Sequence[object], ...]:
        where = (self.shards, self.indexes, self.offsets, self.lengths, self.crcs, self.excerpts)
        return (self.corpora, self.ys, *where)

    @property
    def inflated_bytes(self) -> int:
        """What the images have that are compressed in their shards."""
        return sum(excerpt.size for excerpt in self.excerpts if excerpt is not None)

    @property
    def unchecked(self) -> int:
        """How many have no CRC."""
        return sum(crc is None for crc in self.crcs)


class Locator:
    """Finds samples of a pin; thread-safe."""

    def __init__(self, pin: Pin) -> None:
        self._shards = [corpus.shards for corpus in pin.corpora]
        counts = [shards.samples for shards in self._shards]
        self._ends = [np.cumsum(each) for each in counts]
        self._starts = np.concatenate([ends - each for ends, each in zip(self._ends, counts, strict=True)])
        self._first_shard = np.cumsum([0, *(len(each) for each in counts)])

    def locate(self, corpus: Ints, y: Ints, indexes: Indexes, *, masks: bool = False) -> Pieces:
        """Where the samples' images lie, or their masks.

        Args:
            corpus: number of the corpus (n,).
            y: index in it (n,).
            indexes: loads the indexes of some shards; what it raises passes through.
            masks: whether their masks are wanted; one that a sample lacks has a length of 0.
        """
        shard, index = self._find(corpus, y)
        offsets, lengths = np.empty(len(y), np.int64), np.empty(len(y), np.int64)
        crcs: list[int | None] = [None] * len(y)
        excerpts: list[Excerpt | None] = [None] * len(y)
        shards = {number: self._shard(number) for number in np.unique(shard).tolist()}
        found = indexes(list(shards.values()))
        for slots, of_shard in zip(_slots_of_each(shard), found, strict=True):
            records = _records_of(of_shard, masks=masks)[index[slots]]
            offsets[slots], lengths[slots] = records["offset"], records["length"]
            if of_shard.excerpts is not None and not masks:
                stored = of_shard.excerpts[index[slots]]
                offsets[slots], lengths[slots] = stored["offset"], stored["length"]
                for slot, row, record in zip(slots.tolist(), stored.tolist(), records.tolist(), strict=True):
                    excerpts[slot] = Excerpt(*row, *record[:2])
            if of_shard.header.checked:
                for slot, crc in zip(slots.tolist(), records["crc"].tolist(), strict=True):
                    crcs[slot] = crc
        of_samples = [shards[number] for number in shard.tolist()]
        where = (of_samples, index.tolist(), offsets.tolist(), lengths.tolist(), crcs, excerpts)
        return Pieces(corpus.tolist(), y.tolist(), *where)

    def labels(self, corpus: Ints, y: Ints, of: Callable[[PinnedShard], NDArray[np.int32]]) -> Ints:
        """The classes of the samples.

        Args:
            corpus: number of the corpus (n,).
            y: index in it (n,).
            of: the classes of a shard's samples; what it raises passes through.

        Returns:
            int64 (n,), -1 where a sample has none.
        """
        shard, index = self._find(corpus, y)
        labels = np.empty(len(y), np.int64)
        for number, slots in zip(np.unique(shard).tolist(), _slots_of_each(shard), strict=True):
            labels[slots] = of(self._shard(number))[index[slots]]
        return labels

    def _shard(self, number: int) -> PinnedShard:
        """A shard by its number among all corpora's."""
        c = int(np.searchsorted(self._first_shard, number, side="right")) - 1
        return self._shards[c][number - int(self._first_shard[c])]

    def _find(self, corpus: Ints, y: Ints) -> tuple[Ints, Ints]:
        """Number of each sample's shard among all corpora's, and of the sample in it."""
        shard = np.empty(len(y), np.int64)
        for c in np.unique(corpus):
            own = corpus == c
            shard[own] = self._first_shard[c] + np.searchsorted(self._ends[c], y[own], side="right")
        return shard, y - self._starts[shard]


def _records_of(shard: ShardIndex, *, masks: bool) -> NDArray[np.void]:
    if not masks:
        return shard.records
    return np.zeros(len(shard.records), MASK_RECORD) if shard.masks is None else shard.masks


def _slots_of_each(shard: Ints) -> Iterator[Ints]:
    """Positions of each distinct value, values ascending."""
    order = np.argsort(shard, kind="stable")
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(shard[order])) + 1)
