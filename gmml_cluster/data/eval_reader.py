"""Reading a corpus outside training: in index order for evaluation, and as the lines of `gmml order`."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.pin import CorpusUrl, Pin, pin
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.decode import BadImage, Pixels, decode, decode_mask, mask_values
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.order import Order
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.plan.sample_layout import MicroBatches, SampleLayout, micro_batches, rank_lanes
from gmml_cluster.spec.job import Data
from gmml_cluster.store.protocol import Store

MASKS_LOOKED_AT = 32
"""Of a corpus, before the others are read: an index says where masks lie and not what they hold."""
_LINES_AT_ONCE = 4096
_IMAGE = "no image", "pack the corpus again"
_MASK = "unusable mask", "say which values its masks have (gmml eval: --classes, --zero-ignored), or pack it again"
"""The problem, and what helps."""


class Samples:
    """A corpus in index order: its classes in memory, its images read at each call.

    Args:
        url: shards, as in a job file.
        indexes: store of indexes that are not beside their shards; read only.
        image: field of the images, as `image` of a corpus in a job file.

    Raises:
        DataError: a shard is damaged.
        StorageError: the store does not answer.
    """

    def __init__(self, url: str, indexes: Store | None = None, image: str | None = None) -> None:
        self._pin = pin([CorpusUrl(url, image)], indexes, checked=False)
        self._fetcher = Fetcher(self._pin)

    def __len__(self) -> int:
        return self._pin.shapes[0].samples

    @property
    def identity(self) -> str:
        """SHA-256 of the shards' names, counts, and their samples' names and lengths."""
        return self._pin.corpora[0].identity

    def labels(self) -> NDArray[np.int64]:
        """The class of each sample (n,), -1 where it has none.

        Raises:
            DataError: an index has other classes than its shard, which was rewritten since.
            StorageError: the store does not answer.
        """
        shards = self._pin.corpora[0].shards
        found = [self._pin.labels_of(shard).astype(np.int64) for shard in shards]
        return np.concatenate([np.zeros(0, np.int64), *found])

    def shards(self) -> frozenset[str]:
        """The URLs of all shards."""
        return frozenset(shard.file.url for shard in self._pin.corpora[0].shards)

    def contents(self) -> frozenset[tuple[int, int]]:
        """Length and CRC32C of each encoded image whose shard has an index with checksums.

        Raises:
            DataError: an index is damaged.
            StorageError: the store does not answer.
        """
        found = (self._pin.index_of(shard) for shard in self._pin.corpora[0].shards)
        listed = [each.records[["length", "crc"]].tolist() for each in found if each.header.checked]
        return frozenset(content for contents in listed for content in contents)

    def names(self, indexes: Iterable[int]) -> list[str]:
        """The members' names of some samples."""
        return [self._pin.locate(0, y).member for y in indexes]

    def images(self, indexes: Iterable[int]) -> list[Pixels]:
        """The images of some samples, uint8 (height, width, 3) each; they are not kept.

        Raises:
            DataError: an image cannot be decoded: an evaluation never leaves one out.
            StorageError: the store does not answer.
        """
        wanted = [Wanted(0, y) for y in indexes]
        located = [str(self._pin.locate(0, sample.y)) for sample in wanted]
        return [_decode(where, data) for where, data in zip(located, self._fetcher.fetch(wanted), strict=True)]

    def masked(self) -> NDArray[np.bool_]:
        """Which samples have a mask (n,).

        Raises:
            StorageError: the store does not answer.
        """
        found = (self._pin.index_of(shard) for shard in self._pin.corpora[0].shards)
        masks = [
            np.zeros(len(each.records), bool) if each.masks is None else each.masks["length"] > 0 for each in found
        ]
        return np.concatenate([*masks, np.zeros(0, bool)])

    def pairs(self, indexes: Iterable[int], mask_table: NDArray[np.int16]) -> list[tuple[Pixels, Pixels]]:
        """Images and masks of some samples, uint8 (height, width, 3) and (height, width).

        Args:
            indexes: the samples.
            mask_table: int16 (256,), the class of each value of a mask; -1 for values that it may not have.

        Raises:
            DataError: one of them cannot be decoded, or has another size or other values.
            StorageError: the store does not answer.
        """
        wanted = [Wanted(0, y) for y in indexes]
        images, masks = self.images(sample.y for sample in wanted), self._fetcher.fetch(wanted, masks=True)
        return [
            (image, _guarded(str(self._pin.locate(0, sample.y)), _MASK, decode_mask, mask, image.shape, mask_table))
            for sample, image, mask in zip(wanted, images, masks, strict=True)
        ]

    def unknown_value(self, mask_table: NDArray[np.int16], most: int = MASKS_LOOKED_AT) -> tuple[str, int] | None:
        """A sample whose mask has a value that it may not have, and that value; None where none is found.

        Args:
            mask_table: as of `pairs`.
            most: masks to look at, spread evenly; one that cannot be decoded is passed over.

        Raises:
            StorageError: the store does not answer.
        """
        (masked,) = self.masked().nonzero()
        chosen = [int(y) for y in masked[:: max(1, len(masked) // most)][:most]]
        for y, data in zip(chosen, self._fetcher.fetch([Wanted(0, y) for y in chosen], masks=True), strict=True):
            try:
                values = mask_values(data)
            except BadImage:
                continue
            unknown = values[mask_table[values] < 0]
            if unknown.size:
                return str(self._pin.locate(0, y)), int(unknown.max())
        return None


def _decode(where: str, data: bytes) -> Pixels:
    return _guarded(where, _IMAGE, decode, data, Data.model_fields["max_pixels"].default)


def _guarded(where: str, blamed: tuple[str, str], decoder: Callable[..., Pixels], *arguments: Any) -> Pixels:
    try:
        return decoder(*arguments)
    except BadImage as error:
        raise DataError(Fault(where, f"{blamed[0]} ({error}); an evaluation reads every sample", blamed[1])) from error


def order_lines(
    layout: SampleLayout, pinned: Pin, numbers: Iterable[int], *, ranks: int, micro: int
) -> Iterator[dict[str, Any]]:
    """For each sample number its image, the rank that reads it and the micro-batch: the lines of `gmml order`.

    Args:
        layout: the run's layout.
        pinned: its corpora.
        numbers: sample numbers, in the order of the lines.
        ranks: number of ranks.
        micro: images a rank holds at once, whole groups.

    Yields:
        n, rank, micro_batch, corpus, epoch, shard, index, member.

    Raises:
        SpecError: there are more ranks than lanes.
    """
    order, cut = Order(layout), micro_batches(layout, ranks, micro)
    waiting = iter(numbers)
    while chunk := list(islice(waiting, _LINES_AT_ONCE)):
        listed = np.array(chunk, np.int64)
        where = order.locate(listed)
        rank, micro_batch = rank_and_micro_batch(layout, cut, listed, ranks)
        for at, n in enumerate(chunk):
            corpus, y = int(where.corpus[at]), int(where.y[at])
            located = pinned.locate(corpus, y)
            yield {
                "n": n,
                "rank": int(rank[at]),
                "micro_batch": int(micro_batch[at]),
                "corpus": corpus,
                "epoch": int(where.epoch[at]),
                "shard": located.shard,
                "index": located.index,
                "member": located.member,
            }


def rank_and_micro_batch(layout: SampleLayout, cut: MicroBatches, numbers: Ints, ranks: int) -> tuple[Ints, Ints]:
    """Rank and micro-batch of each sample number."""
    owned = [rank_lanes(layout.lanes, ranks, rank) for rank in range(ranks)]
    starts, widths = np.array([lanes.start for lanes in owned]), np.array([len(lanes) for lanes in owned])
    row, lane = np.divmod(numbers // layout.group, layout.lanes)
    rank = np.searchsorted(starts, lane, side="right") - 1
    index = row % layout.steps_rows * widths[rank] + lane - starts[rank]
    return rank, index // cut.groups_per_micro
