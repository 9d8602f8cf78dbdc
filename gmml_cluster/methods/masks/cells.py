"""Cells: squares of patches of which a fixed number is hidden, uniformly at random.

The grid is that of the patches, which whole cells divide.

Source: arXiv 2111.09886; a cell of one patch is masking by single patches (docs/reference/methods.md).

Dims: n images, g patches of a side of the grid, N = g g patches, c patches of a side of a cell, M = (g / c)^2 cells.
"""

import torch
from torch import Tensor

from gmml_cluster.methods.drawing import token_order


def masked_cells(seed: int, numbers: Tensor, *, grid: int, cell: int, count: int) -> Tensor:
    """The patches of the first `count` cells of a random order, bool (n, N).

    Args:
        seed: of the run.
        numbers: sample numbers.
        grid: g.
        cell: c, a divisor of the grid.
        count: cells hidden of each image.
    """
    side = grid // cell
    order_nM = token_order(seed, numbers, side**2)
    hidden_nM = torch.zeros_like(order_nM, dtype=torch.bool).scatter_(1, order_nM[:, :count], True)
    return patches_of(hidden_nM, cell)


def patches_of(cells_nM: Tensor, cell: int) -> Tensor:
    """What the patches of each cell have in common (n, N)."""
    side = round(cells_nM.shape[1] ** 0.5)
    rows_nMg = cells_nM.view(-1, side, side).repeat_interleave(cell, 2)
    return rows_nMg.repeat_interleave(cell, 1).flatten(1)
