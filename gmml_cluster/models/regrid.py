"""Tables of positions on another grid than the one that they were trained on.

Only elementwise arithmetic in float64, in a fixed order: each rank does it for itself, and on every processor it gives
the same bits.

Dims: T tokens of a table, D width, g side of a grid, C channels, R rows of relative biases, h heads.
"""

from functools import cache
from itertools import pairwise
from math import isqrt

import torch
from torch import Tensor

from gmml_cluster.models.vit import sincos_positions

POSITIONS, BIASES = "pos_embed", "relative_position_bias_table"
FIXED_WITHIN = 1e-4
"""Greatest difference of a fixed table that was computed in float32 somewhere from ours, whose entries are below 1."""
_KEYS_A = -0.5
"""Keys' constant in torch's antialiased bicubic filter, and Pillow's."""
_OF_CLASS_TOKEN = 3
"""Rows of relative biases behind those of the differences of places."""
_LEAST_SIDE = 4
"""Points that a cubic spline takes."""
_LEAST_RATIO, _GREATEST_RATIO, _RATIO_WITHIN = 1.01, 1.5, 1e-6
"""Of the distances, and how exactly it is sought; BEiT's."""

Shape = tuple[int, ...]
_Weights = tuple[tuple[float, ...], ...]
"""For each place of the new line the shares of the old ones."""


def differs_in_grid(name: str, theirs: Shape, ours: Shape) -> bool:
    """Whether tables of these two shapes differ in nothing but the grid, so that `on_grid` takes one to the other."""
    if theirs == ours or len(theirs) != len(ours):
        return False
    if name.endswith(POSITIONS):
        return len(ours) == 3 and theirs[2] == ours[2] and _prefix(theirs[1]) == _prefix(ours[1]) is not None
    return name.endswith(BIASES) and theirs[1] == ours[1] and None not in (_side(theirs[0]), _side(ours[0]))


def on_grid(name: str, table: Tensor, shape: Shape) -> Tensor:
    """A table of learned positions or of relative biases on another grid; itself where the shape is its own.

    Positions (1, T, D) are interpolated with an antialiased bicubic filter, as timm's `resample_abs_pos_embed` does,
    and the class token's stays; MAE's fixed table becomes that of the new grid. Relative biases (R, h) are read off a
    cubic spline through the old differences of places at distances that grow geometrically, so that near patches keep
    theirs, as in BEiT's released code (arXiv 2106.08254); those of the class token stay.

    Args:
        name: of the tensor.
        table: it.
        shape: of which it is to be; `differs_in_grid` holds.
    """
    if tuple(table.shape) == shape:
        return table
    if name.endswith(POSITIONS):
        if is_fixed(table):
            return fixed_positions(shape).to(table.dtype)
        prefix, old, new = _prefix(shape[1]) or 0, isqrt(table.shape[1]), isqrt(shape[1])
        cells_ND = _separably(table[0, prefix:].double(), _bicubic(old, new))
        return torch.cat([table[:, :prefix], cells_ND[None].to(table.dtype)], 1)
    old, new = isqrt(table.shape[0]), isqrt(shape[0])
    biases_Rh = _separably(table[:-_OF_CLASS_TOKEN].double(), _spline(old, new))
    return torch.cat([biases_Rh.to(table.dtype), table[-_OF_CLASS_TOKEN:]])


def is_fixed(table: Tensor) -> bool:
    """Whether it is MAE's table, whatever its grid."""
    shape = tuple(table.shape)
    if len(shape) != 3 or shape[2] % 4 or _prefix(shape[1]) is None:
        return False
    return float((table.double() - fixed_positions(shape)).abs().max()) <= FIXED_WITHIN


def fixed_positions(shape: Shape) -> Tensor:
    """MAE's table (1, T, D) of a grid with or without a class token, float64 on the CPU."""
    return sincos_positions(shape[2], isqrt(shape[1]))[:, 1 - (_prefix(shape[1]) or 0) :]


def _prefix(tokens: int) -> int | None:
    """1 with a class token before a square of cells, 0 without, None where it is neither."""
    return next((prefix for prefix in (0, 1) if isqrt(tokens - prefix) ** 2 == tokens - prefix), None)


def _side(rows: int) -> int | None:
    """Side of the square of differences in a table of relative biases; None where it is none or has no spline."""
    side = isqrt(max(0, rows - _OF_CLASS_TOKEN))
    return side if side % 2 and side >= _LEAST_SIDE and side**2 == rows - _OF_CLASS_TOKEN else None


def _separably(cells_NC: Tensor, weights: _Weights) -> Tensor:
    """Rows, then columns of a square of cells, each a sum of the old ones; row by row (N, C)."""
    old = len(weights[0])
    x_ggC = cells_NC.view(old, old, -1)
    for _ in range(2):  # along the first side, then, turned, along the other
        x_ggC = torch.stack([_weighted(x_ggC, shares) for shares in weights]).transpose(0, 1)
    return x_ggC.reshape(len(weights) ** 2, -1)


def _weighted(x_ggC: Tensor, shares: tuple[float, ...]) -> Tensor:
    total_gC = torch.zeros_like(x_ggC[0])
    for share, line_gC in zip(shares, x_ggC, strict=True):
        if share:
            total_gC = total_gC + share * line_gC
    return total_gC


@cache
def _bicubic(old: int, new: int) -> _Weights:
    stretch = max(old / new, 1.0)
    lines = []
    for i in range(new):
        center = (i + 0.5) * old / new - 0.5
        shares = [_keys(abs(k - center) / stretch) for k in range(old)]
        lines.append(tuple(share / sum(shares) for share in shares))
    return tuple(lines)


def _keys(x: float) -> float:
    a = _KEYS_A
    if x < 1:
        return (a + 2) * x * x * x - (a + 3) * x * x + 1
    return a * (x * x * x - 5 * x * x + 8 * x - 4) if x < 2 else 0.0


@cache
def _spline(old: int, new: int) -> _Weights:
    """Values at -(new // 2) to new // 2 of the cubic spline through the old line's values at its distances."""
    knots = _distances(old // 2, new // 2)
    units = [[float(row == column) for row in range(old)] for column in range(old)]
    curved = [_second_derivatives(knots, unit) for unit in units]
    # beyond the last knot, as BEiT's library: the value there
    places = [min(max(float(place - new // 2), knots[0]), knots[-1]) for place in range(new)]
    return tuple(
        tuple(_spline_at(knots, unit, second, place) for unit, second in zip(units, curved, strict=True))
        for place in places
    )


def _distances(half: int, reach: int) -> list[float]:
    """Where the old differences -half to half lie: at sums of powers of a ratio, the last at `reach`."""
    low, high = _LEAST_RATIO, _GREATEST_RATIO
    while high - low > _RATIO_WITHIN:
        ratio = (low + high) / 2
        low, high = (low, ratio) if _sums(ratio, half)[-1] > reach else (ratio, high)
    ahead = _sums(ratio, half)
    return [-distance for distance in reversed(ahead)] + [0.0] + ahead


def _sums(ratio: float, count: int) -> list[float]:
    """1, 1 + q, 1 + q + q^2 and so on; by products, as powers differ between processors in the last place."""
    sums, power = [1.0], 1.0
    for _ in range(count - 1):
        power *= ratio
        sums.append(sums[-1] + power)
    return sums


def _second_derivatives(x: list[float], y: list[float]) -> list[float]:
    """Of the spline through four points or more whose third derivative is continuous at the last knots but one."""
    step = [right - left for left, right in pairwise(x)]
    slope = [(right - left) / h for (left, right), h in zip(pairwise(y), step, strict=True)]
    inner, (h0, h1), (hm, hn) = range(1, len(x) - 1), step[:2], step[-2:]
    below = [step[i - 1] for i in inner]
    diagonal = [2 * (step[i - 1] + step[i]) for i in inner]
    above = [step[i] for i in inner]
    right = [6 * (slope[i] - slope[i - 1]) for i in inner]
    diagonal[0], above[0] = diagonal[0] + h0 * (1 + h0 / h1), above[0] - h0 * h0 / h1
    diagonal[-1], below[-1] = diagonal[-1] + hn * (1 + hn / hm), below[-1] - hn * hn / hm
    for i in range(1, len(right)):
        factor = below[i] / diagonal[i - 1]
        diagonal[i] -= factor * above[i - 1]
        right[i] -= factor * right[i - 1]
    found = [right[-1] / diagonal[-1]]
    for i in range(len(right) - 2, -1, -1):
        found.insert(0, (right[i] - above[i] * found[0]) / diagonal[i])
    first = found[0] - (found[1] - found[0]) * h0 / h1
    return [first, *found, found[-1] + (found[-1] - found[-2]) * hn / hm]


def _spline_at(x: list[float], y: list[float], second: list[float], place: float) -> float:
    i = next(i for i in range(len(x) - 1) if place <= x[i + 1])
    h = x[i + 1] - x[i]
    left, right = (x[i + 1] - place) / h, (place - x[i]) / h
    bent = (left * left * left - left) * second[i] + (right * right * right - right) * second[i + 1]
    return left * y[i] + right * y[i + 1] + bent * h * h / 6
