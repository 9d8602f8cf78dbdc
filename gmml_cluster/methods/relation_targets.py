"""What RelViT's tasks ask of a grid of patches: constants of its side (arXiv 2206.00481, as released).

Patches are counted row by row. Tables are made on the CPU in float64 and copied to a device once.

Dims: s side of the grid, N = s s patches; rows of a table are the first patch of a pair.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox_torch import constant


def relation_classes(grid: int) -> Tensor:
    """Where the first patch lies relative to the second (N, N): 3 * (up, level, down) + (left, level, right)."""
    rows_N, columns_N = _coordinates(grid)
    down_NN, right_NN = ((axis[:, None] - axis).sign() for axis in (rows_N, columns_N))
    return (3 * (down_NN + 1) + right_NN + 1).long()


def distances(grid: int) -> Tensor:
    """Euclidean distance in patches, from -1 for none to 1 for the diagonal of the image (N, N)."""
    rows_N, columns_N = _coordinates(grid)
    far_NN = torch.hypot(rows_N[:, None] - rows_N, columns_N[:, None] - columns_N)
    return 2 * far_NN / far_NN.max() - 1


def angles(grid: int) -> Tensor:
    """Angle between two patches as seen from half an image above and left of it (N, N).

    Not the direction from one to the other: the released code takes the angle at the origin between the vectors
    (x + s / 2, y + s / 2), which is 0 for two patches on one ray. From -1 for none to 1 for the greatest.
    """
    points_N2 = torch.stack(_coordinates(grid), 1) + grid / 2
    lengths_N = points_N2.norm(dim=1)
    cosines_NN = points_N2 @ points_N2.T / (lengths_N[:, None] * lengths_N + 1e-4)
    raw_NN = cosines_NN.acos() / math.pi
    raw_NN.fill_diagonal_(0)
    scaled_NN: Tensor = 2 * raw_NN / raw_NN.max() - 1
    return scaled_NN


def _coordinates(grid: int) -> tuple[Tensor, Tensor]:
    """Row and column of each patch, float64 (N,)."""
    steps = torch.arange(grid, dtype=torch.float64, device="cpu")
    return steps.repeat_interleave(grid), steps.repeat(grid)


_PAIRS = {"relations": relation_classes, "distances": distances, "angles": angles}


@lru_cache(maxsize=64)
def _table(task: str, grid: int, device: torch.device) -> Tensor:
    return constant(_PAIRS[task](grid), device)


def targets(task: str, grid: int, places_BK: Tensor) -> Tensor:
    """The targets of the patches at these places in their image.

    Returns:
        `positions`: (B, K), class indices; `relations`: (B, K, K), class indices; else (B, K, K), float64.
    """
    if task == "positions":
        return places_BK
    return _table(task, grid, places_BK.device)[places_BK[:, :, None], places_BK[:, None, :]]


@lru_cache(maxsize=64)
def floor(task: str, grid: int) -> float:
    """What a prediction that never changes reaches at best over a whole grid: accuracy, or squared error."""
    if task == "positions":
        return 1 / grid**2
    table = _PAIRS[task](grid).flatten()
    if task == "relations":
        return float(table.bincount().max()) / len(table)
    return float(table.var(correction=0))
