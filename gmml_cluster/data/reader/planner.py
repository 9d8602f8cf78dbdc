"""What samples need before anything of them is read: where they lie, their classes, and the draws of their crops."""

from collections.abc import Sequence
from dataclasses import dataclass

from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.crop import CropDraws, draw_crops
from gmml_cluster.data.reader.fetch import Chunk, Fetcher
from gmml_cluster.data.reader.locate import Pieces
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.views import Part
from gmml_cluster.spec.job import Data


@dataclass(frozen=True)
class Planned:
    """Some sample numbers; all of one length and order.

    Attributes:
        numbers: int64 (n,).
        pieces: where their images lie.
        masks: where their masks lie; None where none are read.
        first: whether a sample is drawn for the first time: in epoch 0 of its corpus.
        labels: their classes, int64 (n,); None where none are read.
    """

    numbers: Ints
    pieces: Pieces
    masks: Pieces | None
    first: Sequence[bool]
    draws: CropDraws
    labels: Ints | None

    def part(self, some: slice, samples: slice) -> Part:
        """Some of them as a chunk.

        Args:
            some: which of these.
            samples: which of their step they are.
        """
        pieces = self.pieces.part(some)
        joined = pieces if self.masks is None else pieces.joined(self.masks.part(some))
        labels = None if self.labels is None else self.labels[some]  # a view: replacements are written through it
        return Part(samples, Chunk(joined), self.first[some], self.draws.part(some), labels)


@dataclass(frozen=True)
class Planner:
    """Plans the samples of a run.

    Attributes:
        seed: the run's.
        views: crops an image.
        labels: whether classes are read.
        masks: whether masks are read.
    """

    order: Order
    fetcher: Fetcher
    data: Data
    seed: int
    views: int
    labels: bool
    masks: bool

    def plan(self, numbers: Ints) -> Planned:
        """What some sample numbers need, many in one call.

        Raises:
            DataError: an index is damaged, or has other classes than its shard.
            StorageError: an index cannot be read, or its shard is gone or changed since it was pinned.
        """
        where = self.order.locate(numbers)
        crops = 1 if self.data.augment.aligned else self.views
        return Planned(
            numbers,
            self.fetcher.locate(where.corpus, where.y),
            self.fetcher.locate(where.corpus, where.y, masks=True) if self.masks else None,
            (where.epoch == 0).tolist(),
            draw_crops(self.seed, numbers, crops, self.data.augment.crop),
            self.fetcher.labels(where.corpus, where.y) if self.labels else None,
        )
