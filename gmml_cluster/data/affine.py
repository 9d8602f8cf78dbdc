"""Turns, shears and shifts of images on their device, one matrix an image, with Pillow's cubic interpolation.

Not `grid_sample`: its cubic has another constant (-0.75, Pillow's is -1), which differs by whole levels at edges.

Dims: B images, C channels, S side, P = S * S pixels.
"""

from functools import cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox_torch import constant


def warp(x_BCSS: Tensor, matrix_B23: Tensor, fill_C11: Tensor) -> Tensor:
    """Each image read at places that are an affine function of the pixel's own.

    Args:
        x_BCSS: whole numbers 0 to 255 in float32.
        matrix_B23: float64, to a column and a row in pixels from (column, row, 1) of a pixel's centre.
        fill_C11: colour of what lies outside.

    Returns:
        Whole numbers 0 to 255, rounded down as Pillow does; an image with the matrix of the identity keeps its bits.
    """
    B, C, S, _ = x_BCSS.shape
    at_B2SS = _places(matrix_B23, S)
    outside_B1SS = ((at_B2SS < 0) | (at_B2SS >= S)).any(1, keepdim=True)
    at_B2SS = at_B2SS - 0.5
    first_B2SS = at_B2SS.floor()
    part_B2SS = (at_B2SS - first_B2SS).to(x_BCSS.dtype)
    taps_4B2SS = (first_B2SS.long() + _taps(x_BCSS.device)).clamp(0, S - 1)
    columns_B4SS, x_BCP = taps_4B2SS[:, :, 0].transpose(0, 1).contiguous(), x_BCSS.flatten(2)
    lines = []
    for rows_BSS in taps_4B2SS[:, :, 1].unbind():  # all 16 taps at once would take the memory of 16 images an image
        index_B1K = (rows_BSS[:, None] * S + columns_B4SS).view(B, 1, -1)
        taps_BC4SS = x_BCP.gather(2, index_B1K.expand(B, C, -1)).view(B, C, 4, S, S)
        lines.append(_cubic(list(taps_BC4SS.unbind(2)), part_B2SS[:, :1]))
    read_BCSS = _cubic(lines, part_B2SS[:, 1:])
    return torch.where(outside_B1SS, fill_C11, read_BCSS.clamp(0, 255).floor())


def _places(matrix_B23: Tensor, size: int) -> Tensor:
    """Where each pixel is read: column, then row (B, 2, S, S)."""
    centres_S = torch.arange(size, device=matrix_B23.device, dtype=matrix_B23.dtype) + 0.5
    by_column_B211, by_row_B211, shift_B211 = matrix_B23[..., None, None].unbind(2)
    return by_column_B211 * centres_S + by_row_B211 * centres_S[:, None] + shift_B211


def _cubic(neighbours: list[Tensor], part: Tensor) -> Tensor:
    """Cubic through four neighbours, `part` of the way from the second to the third.

    In this form, and not by four weights, a flat patch keeps its value exactly, which rounding down would lower by one.
    """
    a, b, c, d = neighbours
    first, last = a - b, c - d
    out = torch.addcmul(torch.add(last, first, alpha=2), part, first + last, value=-1)
    return torch.addcmul(b, part, torch.addcmul(c - a, part, out))


@cache
def _taps(device: torch.device) -> Tensor:
    """Offsets of the four neighbours (4, 1, 1, 1, 1)."""
    return constant(torch.arange(-1, 3).view(4, 1, 1, 1, 1), device)
