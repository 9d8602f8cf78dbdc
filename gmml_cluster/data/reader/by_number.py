"""Sample numbers of a run, read as a rank reads them, and what lies behind each: the image as stored, its boxes.

Dims: n samples, V views.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.decode import Pixels
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.map_table import MapTable
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.planner import Planned, Planner
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.data.reader.views import Met, Views
from gmml_cluster.spec.job import Data


@dataclass(frozen=True)
class Stored:
    """What lies behind a sample number.

    Attributes:
        sample: whose image is shown.
        replaces: the bad sample in whose place it is shown; None where the number's own is good.
        label: its class, -1 where it has none.
        height, width: of the image in pixels.
        image: the image, shrunk.
        boxes: int64 (V, 4): top, left, height, width of what is cut; (1, 4) where the views share one.
    """

    sample: Wanted
    replaces: Wanted | None
    label: int
    height: int
    width: int
    image: Pixels
    boxes: Ints


class NumberReader:
    """Reads any sample numbers of a run, a few at a time.

    Args:
        order: the run's order.
        pin: its corpora.
        data: what is done to images.
        seed: the run's.
        views: crops an image.
        labels: whether batches carry the samples' classes.
        mask_table: the class of each of the 256 values of a mask, -1 for none; None where batches carry no masks.
        side: of the stored images, the longer one at most.
    """

    def __init__(
        self,
        order: Order,
        pin: Pin,
        data: Data,
        *,
        seed: int,
        views: int,
        labels: bool,
        mask_table: Sequence[int] | None,
        side: int,
    ) -> None:
        self._data, self._views, self._labels, self._side = data, views, labels, side
        self._fetcher, self._masks = Fetcher(pin), mask_table is not None
        # classes are read for `Stored` even where the method learns without
        self._planner = Planner(order, self._fetcher, data, seed, views, True, self._masks)
        self._images = Views(pin, data, self._fetcher, None if mask_table is None else np.array(mask_table, np.int16))

    def read(self, step: int, numbers: Ints, table: MapTable | None) -> tuple[HostBatch, list[Stored]]:
        """What the ranks together would hold of some sample numbers of a step.

        Args:
            step: theirs.
            numbers: int64 (n,), whole groups, upwards.
            table: of maps, where the method masks by them; those of the step are made, if it reads any.

        Raises:
            DataError: an index is damaged, or too many bad samples follow each other.
            StorageError: a store does not answer, or a shard is gone or changed.
        """
        planned, every, size = self._planner.plan(numbers), slice(0, len(numbers)), self._data.image_size
        part = planned.part(every, every)
        samples = planned.pieces.samples
        encoded = self._fetcher.fetch(samples) + (self._fetcher.fetch(samples, masks=True) if self._masks else [])
        images = np.empty((len(numbers), self._views, 3, size, size), np.uint8)
        masks = np.empty((len(numbers), size, size), np.uint8) if self._masks else None
        maps = None if table is None else table.of_step(step, numbers, self._views)
        decoded: list[tuple[tuple[int, int], Pixels, Ints]] = []

        def look(slot: int, image: Pixels, boxes: Ints) -> None:
            decoded.append((image.shape[:2], shrink(image, self._side), boxes.copy()))

        met = self._images.fill(part, encoded, images, masks, maps, look)
        batch = HostBatch(
            step,
            numbers,
            images,
            labels=planned.labels if self._labels else None,
            masks=masks,
            maps=None if maps is None else maps.maps,
            map_pass=None if table is None else table.pass_of(step),
        )
        return batch, [_stored(slot, *each, planned, met) for slot, each in enumerate(decoded)]

    def close(self) -> None:
        """Join the threads that read."""
        self._fetcher.close()


def _stored(slot: int, sides: tuple[int, int], image: Pixels, boxes: Ints, planned: Planned, met: Met) -> Stored:
    assert planned.labels is not None
    drawn, replacement = planned.pieces.sample(slot), met.replaced.get(slot)
    shown, replaces = (drawn, None) if replacement is None else (replacement, drawn)
    return Stored(shown, replaces, int(planned.labels[slot]), *sides, image, boxes)


def shrink(image: Pixels, side: int) -> NDArray[np.uint8]:
    """The image with its longer side brought down to `side`, if it is longer."""
    pillow = Image.fromarray(image)
    pillow.thumbnail((side, side))
    return np.asarray(pillow)
