"""Crop boxes of sample numbers, computed on the host in float64, and resizing of a box to a view.

Random bits: docs/reference/draws.md, purpose 16. Boxes of many samples are computed in one call: numpy's overhead of a
call is that of some twenty samples, and it would be paid under the interpreter lock, which decode threads share.

Dims: n samples, V views, T = 10 tries.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.native import Native, native_function
from gmml_cluster.data.random.philox import Ints, Purpose, Words, integer, uniform, words
from gmml_cluster.data.reader.decode import Pixels
from gmml_cluster.spec.augment import Crop

TRIES = 10
_BITS_OF_A_TRY = 4
_NATIVE_SIDES = 8
"""`native/` makes views whose sides are multiples of it; OpenCV ends other rows in another arithmetic."""
_log = logging.getLogger(__name__)

# OpenCV would start a thread pool in each of our decode threads
cv2.setNumThreads(1)


@dataclass(frozen=True)
class CropDraws:
    """What is drawn for the crops of some samples, before the images' sizes are known; arrays of shape (n, V, T)."""

    crop: Crop | None
    areas: NDArray[np.float64]
    """Area as a share of the image's."""
    ratios: NDArray[np.float64]
    """Width over height."""
    top: Words
    """Random bits of the first row."""
    left: Words
    """Random bits of the first column."""

    def part(self, samples: slice) -> "CropDraws":
        """The draws of some of the samples."""
        return CropDraws(self.crop, self.areas[samples], self.ratios[samples], self.top[samples], self.left[samples])


def draw_crops(seed: int, numbers: Ints, views: int, crop: Crop | None) -> CropDraws:
    """Draw the crops of some sample numbers; without a crop (None: the central square) nothing is drawn."""
    if crop is None:
        shape = (len(numbers), views, 0)
        return CropDraws(crop, np.zeros(shape), np.zeros(shape), np.zeros(shape, np.uint32), np.zeros(shape, np.uint32))
    count = TRIES * _BITS_OF_A_TRY
    random_bits = np.stack([words(seed, Purpose.CROP, numbers, count, stream=view) for view in range(views)], axis=1)
    tries = random_bits.reshape(len(numbers), views, TRIES, _BITS_OF_A_TRY)
    share, slant = (np.ascontiguousarray(uniform(tries[..., k]).astype(np.float64)) for k in (0, 1))
    low, high = (math.log(ratio) for ratio in crop.ratio)
    areas = crop.scale[0] + (crop.scale[1] - crop.scale[0]) * share
    return CropDraws(crop, areas, np.exp(low + (high - low) * slant), tries[..., 2], tries[..., 3])


def crop_boxes(draws: CropDraws, heights: Ints, widths: Ints) -> Ints:
    """The crop of each view: the first of ten tries that fits, else the largest central box of a legal ratio.

    Tries of a clamped crop are cut to the image, so that the first fits.

    Args:
        draws: of n samples.
        heights: of the images, int64 (n,).
        widths: of the images, int64 (n,).

    Returns:
        int64 (n, V, 4): top, left, height and width in pixels.
    """
    H, W = (np.broadcast_to(sides[:, None], draws.areas.shape[:2]) for sides in (heights, widths))
    if draws.crop is None:
        side = np.minimum(H, W)
        return _central(H, W, side, side)
    areas = (heights * widths)[:, None, None] * draws.areas
    w, h = np.rint(np.sqrt(areas * draws.ratios)), np.rint(np.sqrt(areas / draws.ratios))
    if draws.crop.clamped:
        w, h = np.minimum(w, W[..., None]), np.minimum(h, H[..., None])
    fits = (w > 0) & (w <= W[..., None]) & (h > 0) & (h <= H[..., None])
    first = fits.argmax(axis=2)[..., None]
    h, w = (np.take_along_axis(sides, first, 2)[..., 0].astype(np.int64) for sides in (h, w))
    top, left = (np.take_along_axis(bits, first, 2)[..., 0] for bits in (draws.top, draws.left))
    found = np.asarray(fits.any(axis=2))
    # where no try fits, h and w may exceed the image; integer() then gets 0 instead of a negative range
    rows, columns = (np.where(found, side - part + 1, 0) for side, part in ((H, h), (W, w)))
    boxes = np.stack([integer(top, rows), integer(left, columns), h, w], axis=2)
    return boxes if found.all() else np.where(found[..., None], boxes, _fallback(H, W, draws.crop))


def _fallback(H: Ints, W: Ints, crop: Crop) -> Ints:
    low, high = crop.ratio
    h = np.where(low * H > W, np.clip(np.rint(W / low).astype(np.int64), 1, np.maximum(H, 1)), H)
    w = np.where(high * H < W, np.clip(np.rint(H * high).astype(np.int64), 1, np.maximum(W, 1)), W)
    return _central(H, W, h, w)


def _central(H: Ints, W: Ints, h: Ints, w: Ints) -> Ints:
    return np.stack([(H - h) // 2, (W - w) // 2, h, w], axis=2)


def resize_mask(mask: Pixels, box: Ints, view_SS: Pixels) -> None:
    """Take a box of a mask (top, left, height, width) to a view (S, S): at each pixel's centre the class that is there.

    Centres are mapped as `resize` maps them, so that mask and image show the same; OpenCV's INTER_NEAREST maps corners.
    """
    top, left, height, width = box.tolist()
    twice = 2 * np.arange(len(view_SS)) + 1
    rows, columns = (twice * side // (2 * len(view_SS)) for side in (height, width))
    view_SS[:] = mask[top + rows[:, None], left + columns]


def resize(image: Pixels, box: Sequence[int], view_3SS: Pixels) -> None:
    """Resize a box of an image (top, left, height, width) into the planes of a view, uint8 (3, S, S), contiguous.

    Each axis by itself: where it shrinks by two or more areas are averaged (INTER_AREA), else the interpolation is
    bicubic without antialiasing. INTER_CUBIC reads four pixels, so from a factor of two on it would skip some. An
    image of the view's size is copied.
    """
    top, left, height, width = box
    size = view_3SS.shape[1]
    part = image[top : top + height, left : left + width]
    shrinks_y, shrinks_x = height >= 2 * size, width >= 2 * size
    if height == width == size:
        _to_planes(part, view_3SS)
    elif shrinks_y and shrinks_x:
        _to_planes(_by_opencv(part, (size, size), cv2.INTER_AREA), view_3SS)
    elif shrinks_y or shrinks_x:  # the shrinking axis first: the second pass then has fewer pixels
        half = _by_opencv(part, (width, size) if shrinks_y else (size, height), cv2.INTER_AREA)
        _cubic(half, (0, 0, half.shape[0], half.shape[1]), view_3SS)
    else:
        _cubic(image, (top, left, height, width), view_3SS)


def _cubic(image: Pixels, box: tuple[int, int, int, int], view_3SS: Pixels) -> None:
    (top, left, height, width), size = box, view_3SS.shape[1]
    native = None if size % _NATIVE_SIDES else native_cubic()
    if native is None or not image.flags.c_contiguous:
        part = image[top : top + height, left : left + width]
        _to_planes(_by_opencv(part, (size, size), cv2.INTER_CUBIC), view_3SS)
    else:
        native(image, image.shape[1], top, left, height, width, view_3SS, size)


def _to_planes(view_SS3: Pixels, view_3SS: Pixels) -> None:
    cv2.split(view_SS3, list(view_3SS))


def _by_opencv(part: Pixels, size: tuple[int, int], interpolation: int) -> Pixels:
    """The part resized to a width and a height."""
    # IPP's bicubic differs by a level from processor to processor; the setting is one of the thread that makes it
    cv2.ipp.setUseIPP(False)
    resized: Pixels = cv2.resize(part, size, interpolation=interpolation)  # type: ignore[assignment]  # any dtype
    return resized


@cache
def native_cubic() -> Native | None:
    """`cubic_planes` of the package in `native/`; None where it is not there or gives other bits than OpenCV."""
    native = native_function("cubic_planes")
    if native is None:
        return None
    row, column = np.arange(60)[:, None], np.arange(70)[None]
    image = np.stack([row * column, row * 9 + column * 40, (row - column) ** 2], -1).astype(np.uint8)
    for size, height, width in ((8, 15, 9), (64, 47, 70), (40, 60, 7), (88, 60, 69)):
        ours = np.zeros((3, size, size), np.uint8)
        native(image, image.shape[1], 0, 0, height, width, ours, size)
        opencvs = _by_opencv(image[:height, :width], (size, size), cv2.INTER_CUBIC)
        if not np.array_equal(ours, opencvs.transpose(2, 0, 1)):
            _log.warning("gmml_native gives other pixels than OpenCV %s and is not used", cv2.__version__)
            return None
    return native
