"""Crop boxes by number, in float64 on the host (METHODS 9.1, purpose 16), and their resizing to a view.

Shrinking by two or more averages areas; anything else is bicubic without antialiasing.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.random.philox import Ints, Purpose, Words, integer, uniform, words
from gmml_cluster.data.reader.decode import Pixels
from gmml_cluster.spec.job import Crop

TRIES = 10
WORDS = 4 * TRIES

cv2.setNumThreads(1)
cv2.ipp.setUseIPP(False)


@dataclass(frozen=True)
class Box:
    """Part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def crop_words(seed: int, numbers: Ints, views: int) -> Words:
    """What crops are drawn from: uint32 (n, views, 40)."""
    return np.stack([words(seed, Purpose.CROP, numbers, WORDS, stream=view) for view in range(views)], axis=1)


def crop_box(drawn: Words, height: int, width: int, crop: Crop | None) -> Box:
    """The crop of an image: the first of ten tries that fits, else the largest central box of a legal ratio.

    Args:
        drawn: uint32 (40,), words of one number and view.
        height: of the image.
        width: of the image.
        crop: scale and ratio; None takes the central square.
    """
    if crop is None:
        side = min(height, width)
        return _central(height, width, side, side)
    tries = drawn.reshape(TRIES, 4)
    share, slant = uniform(tries[:, 0]).astype(np.float64), uniform(tries[:, 1]).astype(np.float64)
    areas = height * width * (crop.scale[0] + (crop.scale[1] - crop.scale[0]) * share)
    low, high = (math.log(ratio) for ratio in crop.ratio)
    ratios = np.exp(low + (high - low) * slant)
    widths, heights = np.rint(np.sqrt(areas * ratios)), np.rint(np.sqrt(areas / ratios))
    fits = np.flatnonzero((widths > 0) & (widths <= width) & (heights > 0) & (heights <= height))
    if not fits.size:
        return _fallback(height, width, crop)
    first = fits[0]
    h, w = int(heights[first]), int(widths[first])
    return Box(int(integer(tries[first, 2], height - h + 1)), int(integer(tries[first, 3], width - w + 1)), h, w)


def _fallback(height: int, width: int, crop: Crop) -> Box:
    low, high = crop.ratio
    if width < low * height:
        return _central(height, width, max(min(round(width / low), height), 1), width)
    if width > high * height:
        return _central(height, width, height, max(min(round(height * high), width), 1))
    return _central(height, width, height, width)


def _central(height: int, width: int, h: int, w: int) -> Box:
    return Box((height - h) // 2, (width - w) // 2, h, w)


def resize(image: Pixels, box: Box, size: int) -> NDArray[np.uint8]:
    """The box as a view, uint8 (3, size, size)."""
    part = image[box.top : box.top + box.height, box.left : box.left + box.width]
    if part.shape[:2] != (size, size):
        shrinks = min(box.height, box.width) >= 2 * size
        law = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
        part = np.asarray(cv2.resize(part, (size, size), interpolation=law), np.uint8)
    return part.transpose(2, 0, 1)
