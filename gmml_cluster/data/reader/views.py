"""From a chunk's bytes to its views: decoding, cropping, and what replaces a bad sample."""

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.crop import CropDraws, crop_boxes, resize, resize_mask
from gmml_cluster.data.reader.decode import BadImage, Decoded, Pixels, decode_mask, decode_noting
from gmml_cluster.data.reader.fetch import Chunk, Fetcher, Wanted
from gmml_cluster.data.reader.map_table import ViewMaps
from gmml_cluster.data.reader.reads import Encoded
from gmml_cluster.spec.job import Data

_DECODED_BYTES = 2**25
"""Pixels that wait for the crop boxes of their chunk."""

_NO_MASK: Pixels = np.zeros((0, 0), np.uint8)
_Sample = tuple[Pixels, Pixels]
"""Image and mask of a sample; the mask is empty where none is wanted."""

_log = logging.getLogger(__name__)


@dataclass
class Met:
    """What a chunk held beside good samples."""

    bad: list[Wanted] = field(default_factory=list)
    """Bad ones, drawn for the first time."""
    damaged: int = 0
    replaced: dict[int, Wanted] = field(default_factory=dict)
    """What stands in for a bad sample, by slot."""


@dataclass(eq=False)
class Part:
    """A chunk of a step, and how it becomes images."""

    samples: slice
    """Its samples among those of the step."""
    chunk: Chunk
    first: Sequence[bool]
    """Whether a sample is drawn for the first time: in epoch 0 of its corpus."""
    draws: CropDraws
    labels: Ints | None = None
    """Their classes, written again where a bad sample is replaced; None where the method wants none."""
    filled: "Future[Met]" = field(default_factory=Future)


@dataclass(frozen=True)
class Cut:
    """Decoded samples of a chunk, in a row, and where their views are cut.

    Attributes:
        slots: which of the chunk.
        samples: of each its image (height, width, 3) and its mask (height, width).
        sides: int64 (n, 2), height and width of the images.
        boxes: int64 (n, V, 4): top, left, height, width; (n, 1, 4) where the views share one.
    """

    slots: slice
    samples: Sequence[_Sample]
    sides: Ints
    boxes: Ints


class Views:
    """Makes the views of chunks; used by all decode threads at once.

    Args:
        pin: the run's corpora.
        data: what is done to images.
        fetcher: reads what replaces a bad sample.
        mask_table: int16 (256,), the class of each value of a mask; None where no masks are read.
    """

    def __init__(self, pin: Pin, data: Data, fetcher: Fetcher, mask_table: NDArray[np.int16] | None = None) -> None:
        self._pin, self._data, self._fetcher, self._mask_table = pin, data, fetcher, mask_table
        self._limit = Limit(pin, data.max_bad)

    def fill(
        self,
        part: Part,
        encoded: Sequence[Encoded],
        images: NDArray[np.uint8],
        masks: NDArray[np.uint8] | None = None,
        maps: ViewMaps | None = None,
    ) -> Met:
        """Decode and crop a chunk.

        Args:
            part: the chunk.
            encoded: the images' bytes, then those of the masks.
            images: uint8 (n, views, 3, size, size), to be filled.
            masks: uint8 (n, size, size), to be filled with the masks of the first views.
            maps: of the same samples, to be filled; None where the step reads none.

        Raises:
            DataError: too many bad samples follow each other.
            StorageError: what replaces a bad sample cannot be read, or its shard changed.
        """
        met = Met()
        for cut in self.cuts(part, encoded, met):
            place(cut, part, met, images, masks, maps)
        return met

    def cuts(self, part: Part, encoded: Sequence[Encoded], met: Met) -> Iterator[Cut]:
        """Decode a chunk and draw its boxes, in runs of samples.

        Args:
            part: as of `fill`.
            encoded: as there.
            met: notes what the chunk holds beside good samples.

        Raises:
            DataError, StorageError: as there.
        """
        for slots, decoded in self._decoded(part, encoded, met):
            sides = np.array([image.shape[:2] for image, _ in decoded], np.int64)
            boxes = crop_boxes(part.draws.part(slots), sides[:, 0], sides[:, 1])
            yield Cut(slots, decoded, sides, boxes)

    def _decoded(self, part: Part, encoded: Sequence[Encoded], met: Met) -> Iterator[tuple[slice, list[_Sample]]]:
        """The chunk's images and masks in runs of samples, cut where they would take more than 32 MiB."""
        start, run, held = 0, list[_Sample](), 0
        images = encoded[: len(part.first)]
        masks = encoded[len(part.first) :] or [b""] * len(images)
        for slot, pair in enumerate(zip(images, masks, strict=True)):
            run.append(self._decode(part, slot, *pair, met))
            held += sum(pixels.nbytes for pixels in run[-1])
            if held >= _DECODED_BYTES:
                yield slice(start, slot + 1), run
                start, run, held = slot + 1, [], 0
        if run:
            yield slice(start, len(images)), run

    def _decode(self, part: Part, slot: int, data: Encoded, mask: Encoded, met: Met) -> _Sample:
        """The sample's image and mask, or those of the next good one in index order, whose class it then has too."""
        sample, first, passed = part.chunk.pieces.samples[slot], part.first[slot], list[Wanted]()
        while True:
            try:
                pixels, damage = read_image(self._data, sample, data)
                classes = _NO_MASK if self._mask_table is None else decode_mask(mask, pixels.shape, self._mask_table)
            except BadImage as error:
                self._fetcher.demand_unchanged(sample)
                if first and not passed:
                    _log.warning("%s: a bad sample: %s", self._pin.locate(sample.corpus, sample.y), error)
                    met.bad.append(sample)
                passed.append(sample)
                sample = self._limit.next_after(sample, passed)
                data = self._fetcher.fetch([sample])[0]
                if self._mask_table is not None:
                    mask = self._fetcher.fetch([sample], masks=True)[0]
            else:
                if passed:
                    met.replaced[slot] = sample
                    if part.labels is not None:
                        part.labels[slot] = self._fetcher.labels([sample])[0]
                met.damaged += bool(damage)
                if damage and first:
                    _log.warning("%s: damaged, but decoded: %s", self._pin.locate(sample.corpus, sample.y), damage)
                return pixels, classes


def place(
    cut: Cut,
    part: Part,
    met: Met,
    images: NDArray[np.uint8],
    masks: NDArray[np.uint8] | None = None,
    maps: ViewMaps | None = None,
) -> None:
    """Resize the views, masks and maps of a run of samples into their places; arguments are as of `Views.fill`."""
    if masks is not None:
        for (_, mask), own, of_mask in zip(cut.samples, cut.boxes, masks[cut.slots], strict=True):
            resize_mask(mask, own[0], of_mask)
    if maps is not None:
        shown = part.chunk.pieces.samples[cut.slots]
        at = range(cut.slots.start, cut.slots.stop)
        samples = [met.replaced.get(*each) for each in zip(at, shown, strict=True)]
        maps.part(cut.slots).fill(samples, cut.boxes, cut.sides)
    size = images.shape[-1]
    views = np.empty((len(cut.samples), images.shape[1], size, size, 3), np.uint8)
    for (image, _), own, of_sample in zip(cut.samples, cut.boxes, views, strict=True):
        for box, view in zip(own, of_sample[: len(own)], strict=True):
            resize(image, box, view)
        of_sample[len(own) :] = of_sample[:1]  # aligned views have one crop
    images[cut.slots] = views.transpose(0, 1, 4, 2, 3)


def read_image(data: Data, sample: Wanted, encoded: Encoded) -> Decoded:
    """A sample's pixels, and what its decoder complained of.

    Raises:
        BadImage: it is a bad sample by the job's rules.
    """
    decoded = decode_noting(encoded, data.max_pixels)
    if decoded.damage and data.corpora[sample.corpus].refuse_damaged:
        raise BadImage(decoded.damage)
    return decoded
