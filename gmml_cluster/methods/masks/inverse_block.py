"""Inverse-block masking: one block of cells stays visible, rolled over the edges; all else is masked.

Source: arXiv 2502.08769 and its released code; works on any square grid of cells (docs/reference/methods.md).

Dims: n images, g side of the grid, N = g g cells, v cells visible, m cells masked, P cells predicted.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import constant, integer, words
from gmml_cluster.methods.drawing import token_order

_WORDS = 5
_DRAWS = 2**24


@dataclass(frozen=True)
class CellIndices:
    """Cells of each image.

    Attributes:
        visible: int64 (n, v), ascending.
        masked: int64 (n, m), ascending.
    """

    visible: Tensor
    masked: Tensor


def inverse_blocks(seed: int, numbers: Tensor, *, grid: int, visible: int) -> CellIndices:
    """The cells that a block leaves visible in each image, and those that it does not.

    A block has about `visible` cells, of which the first `visible` in row-major order are taken; it is rolled by
    uniform shifts, so that each cell is visible equally often.
    """
    drawn = words(seed, Purpose.INVERSE_BLOCK, numbers, _WORDS)
    height, width = block_shapes(drawn[:, 0], grid=grid, visible=visible)
    top, left = (integer(drawn[:, 1 + axis], grid + 1 - side) for axis, side in enumerate((height, width)))
    place = torch.arange(visible, device=numbers.device)
    rows = top[:, None] + place // width[:, None] + integer(drawn[:, 3:4], grid)
    columns = left[:, None] + place % width[:, None] + integer(drawn[:, 4:5], grid)
    shown = (rows % grid) * grid + columns % grid
    hidden = torch.ones(len(numbers), grid**2, dtype=torch.int64, device=numbers.device).scatter_(1, shown, 0)
    cells = hidden.argsort(dim=1, stable=True)
    return CellIndices(cells[:, :visible], cells[:, visible:])


def predicted_cells(seed: int, numbers: Tensor, masked_nm: Tensor, count: int) -> Tensor:
    """`count` of the masked cells of each image, uniformly and without replacement (n, P)."""
    order = token_order(seed, numbers, masked_nm.shape[1], Purpose.PREDICTED)
    return masked_nm.gather(1, order[:, :count])


def block_shapes(words_n: Tensor, *, grid: int, visible: int) -> tuple[Tensor, Tensor]:
    """Height and width of each block: aspects are uniform in their logarithm, within 1/2 to 2 and the grid."""
    tall, flat = _steps(grid, visible, words_n.device)
    drawn = words_n[:, None] >> 8
    least_height, least_width = _sides(grid, visible, 0)[0], _sides(grid, visible, _DRAWS - 1)[1]
    return least_height + (drawn >= tall).sum(1), least_width + (drawn < flat).sum(1)


@lru_cache(maxsize=16)
def _steps(grid: int, visible: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Draws of 24 bits from which on a block is one cell higher, and from which on it is one cell narrower.

    They are found on the host in float64, so that the device only compares integers, and shapes are equal everywhere.
    """
    (low, wide), (high, narrow) = (_sides(grid, visible, drawn) for drawn in (0, _DRAWS - 1))
    height, width = (lambda drawn: _sides(grid, visible, drawn)[0]), (lambda drawn: -_sides(grid, visible, drawn)[1])
    tall = [bisect_left(range(_DRAWS), side + 1, key=height) for side in range(low, high)]
    flat = [bisect_left(range(_DRAWS), -side, key=width) for side in range(narrow, wide)]
    return constant(torch.tensor(tall, dtype=torch.int64), device), constant(
        torch.tensor(flat, dtype=torch.int64), device
    )


def _sides(grid: int, visible: int, drawn: int) -> tuple[int, int]:
    """Height and width of a block by 24 bits drawn."""
    share = visible / grid**2
    low, high = max(math.log(0.5), math.log(share)), min(math.log(2), -math.log(share))
    aspect = math.exp(low + (high - low) * drawn / _DRAWS)
    # where a bound makes a side as long as the grid, rounding must not make it longer
    return min(grid, math.ceil((visible * aspect) ** 0.5)), min(grid, math.ceil((visible / aspect) ** 0.5))
