"""From a chunk's bytes to its views: decoding, cropping, and what replaces a bad sample."""

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.crop import CropDraws, crop_boxes, resize, resize_mask
from gmml_cluster.data.reader.decode import (
    BadImage,
    Decoded,
    ImageHeader,
    Pixels,
    Room,
    decode_mask,
    decode_noting,
    read_header,
)
from gmml_cluster.data.reader.fetch import Chunk, Fetcher, Wanted
from gmml_cluster.data.reader.map_table import ViewMaps
from gmml_cluster.data.reader.reads import Encoded
from gmml_cluster.spec.job import Data

_NO_MASK: Pixels = np.zeros((0, 0), np.uint8)
_Sample = tuple[Pixels, Pixels]
"""Image and mask of a sample; the mask is empty where none is wanted."""

Look = Callable[[int, Pixels, Ints], None]
"""Slot of a sample, its decoded image, and its boxes, int64 (V, 4): top, left, height, width; (1, 4) where the views
share one."""

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
        look: Look | None = None,
    ) -> Met:
        """Decode and crop a chunk.

        Args:
            part: the chunk.
            encoded: the images' bytes, then those of the masks.
            images: uint8 (n, views, 3, size, size), to be filled.
            masks: uint8 (n, size, size), to be filled with the masks of the first views.
            maps: of the same samples, to be filled; None where the step reads none.
            look: called for each sample; what it is given is valid until it returns.

        Raises:
            DataError: too many bad samples follow each other.
            StorageError: what replaces a bad sample cannot be read, or its shard changed.
        """
        met, scratch = Met(), PixelMemory()
        of_images, of_masks = encoded[: len(part.first)], encoded[len(part.first) :]
        headers = [read_header(data) for data in of_images]
        sides = np.array([header[:2] if header else (0, 0) for header in headers], np.int64)
        boxes = _boxes(part.draws, sides)
        drawn = boxes.tolist()
        for slot, (data, header) in enumerate(zip(of_images, headers, strict=True)):
            mask = b"" if masks is None else of_masks[slot]
            image, classes = self._decode(part, slot, _Encoded(data, header, mask), met, scratch)
            if header is None or image.shape[:2] != header[:2]:  # or it stands in for a bad sample
                sides[slot] = image.shape[:2]
                boxes[slot] = _boxes(part.draws.part(slice(slot, slot + 1)), sides[slot : slot + 1])
                drawn[slot] = boxes[slot].tolist()
            for box, view_3SS in zip(drawn[slot], images[slot], strict=False):  # aligned views have one crop
                resize(image, box, view_3SS)
            if look is not None:
                look(slot, image, boxes[slot])
            if masks is not None:
                resize_mask(classes, boxes[slot, 0], masks[slot])
        images[:, boxes.shape[1] :] = images[:, :1]
        if maps is not None:
            shown = part.chunk.pieces.samples[: len(sides)]
            maps.fill([met.replaced.get(slot, sample) for slot, sample in enumerate(shown)], boxes, sides)
        return met

    def _decode(self, part: Part, slot: int, data: "_Encoded", met: Met, room: "PixelMemory") -> _Sample:
        """The sample's image and mask, or those of the next good one in index order, whose class it then has too."""
        sample, first = part.chunk.pieces.sample(slot), part.first[slot]
        passed: list[Wanted] = []
        while True:
            try:
                pixels, damage = read_image(self._data, sample, data.image, room, data.header)
                classes = (
                    _NO_MASK if self._mask_table is None else decode_mask(data.mask, pixels.shape, self._mask_table)
                )
            except BadImage as error:
                self._fetcher.demand_unchanged(sample)
                if first and not passed:
                    _log.warning("%s: a bad sample: %s", self._pin.locate(sample.corpus, sample.y), error)
                    met.bad.append(sample)
                passed.append(sample)
                sample = self._limit.next_after(sample, passed)
                mask = b"" if self._mask_table is None else self._fetcher.fetch([sample], masks=True)[0]
                data = _Encoded(self._fetcher.fetch([sample])[0], None, mask)
            else:
                if passed:
                    met.replaced[slot] = sample
                    if part.labels is not None:
                        at = np.array([[sample.corpus], [sample.y]])
                        part.labels[slot] = self._fetcher.labels(*at)[0]
                met.damaged += bool(damage)
                if damage and first:
                    _log.warning("%s: damaged, but decoded: %s", self._pin.locate(sample.corpus, sample.y), damage)
                return pixels, classes


class _Encoded(NamedTuple):
    """A sample as it was read."""

    image: Encoded
    header: ImageHeader | None
    mask: Encoded


class PixelMemory:
    """Memory for the pixels of one image after another: `Room` of `decode_noting`."""

    def __init__(self) -> None:
        self._held: Pixels = np.empty(0, np.uint8)

    def __call__(self, size: int) -> Pixels:
        """At least `size` bytes, uint8, overwritten when it is called again."""
        if len(self._held) < size:
            self._held = np.empty(size, np.uint8)
        return self._held


def _boxes(draws: CropDraws, sides: Ints) -> Ints:
    return crop_boxes(draws, sides[:, 0], sides[:, 1])


def read_image(
    data: Data, sample: Wanted, encoded: Encoded, room: Room | None = None, header: ImageHeader | None = None
) -> Decoded:
    """A sample's pixels, and what its decoder complained of.

    Args:
        data: the job's rules.
        sample: which it is.
        encoded: its bytes.
        room: memory that the pixels may lie in; None allocates it.
        header: of the image, where it has been read.

    Raises:
        BadImage: it is a bad sample by the job's rules.
    """
    decoded = decode_noting(encoded, data.max_pixels, room, header)
    if decoded.damage and data.corpora[sample.corpus].refuse_damaged:
        raise BadImage(decoded.damage)
    return decoded
