"""Sliding windows over an image that is larger than what an encoder reads: how published mIoU is measured.

Legend: K classes, H and W sides of an image, S side of a window, n windows of it.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmml_cluster.evaluate.masked import on_device
from gmml_cluster.methods.segmentation import upsampled
from gmml_cluster.spec.augment import Normalise


def starts(side: int, window: int) -> list[int]:
    """First pixels of windows along a side that they cover, two thirds of a window apart, the last flush with its end.

    341 pixels apart for windows of 512, as mmsegmentation has it.
    """
    stride = max(1, 2 * window // 3)
    return [min(first, side - window) for first in range(0, side - window + stride, stride)]


def windows(
    image: NDArray[np.uint8], size: int, normalise: Normalise, device: torch.device
) -> tuple[Tensor, list[tuple[int, int]], tuple[int, int]]:
    """Windows (n, 3, S, S) of an image whose shorter side is brought to S, bicubic, and which keeps its shape.

    Returns:
        The windows, the top and left of each, and height and width of the image that they cover.
    """
    scale = size / min(image.shape[:2])
    height, width = (max(size, round(side * scale)) for side in image.shape[:2])
    whole = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    corners = [(top, left) for top in starts(height, size) for left in starts(width, size)]
    cut = np.stack([whole[top : top + size, left : left + size] for top, left in corners])
    return on_device(cut, normalise, device), corners, (height, width)


def averaged(maps_nKGG: Tensor, corners: Sequence[tuple[int, int]], size: int, sides: tuple[int, int]) -> Tensor:
    """Logits (K, H, W) of the image: each window's, upsampled to it, averaged where windows overlap."""
    sums_KHW = maps_nKGG.new_zeros(maps_nKGG.shape[1], *sides)
    count_HW = maps_nKGG.new_zeros(sides)
    for maps_KGG, (top, left) in zip(maps_nKGG, corners, strict=True):
        here = slice(top, top + size), slice(left, left + size)
        sums_KHW[:, *here] += upsampled(maps_KGG[None], size, size)[0]
        count_HW[here] += 1
    return sums_KHW / count_HW


def slid(
    logits: Callable[[Tensor], Tensor], image: NDArray[np.uint8], size: int, normalise: Normalise, device: torch.device
) -> Tensor:
    """Logits (K, H, W) of an image by what `logits` makes (n, K, G, G) of windows (n, 3, S, S)."""
    cut_n3SS, corners, sides = windows(image, size, normalise, device)
    return averaged(logits(cut_n3SS), corners, size, sides)
