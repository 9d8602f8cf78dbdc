"""RandAugment on the images' device: operations of fifteen, each view by its own random bits.

Source: arXiv 1909.13719, with the strengths of `rand-m9-mstd0.5-inc1` (docs/reference/methods.md). Images are whole
numbers 0 to 255 between operations, so each operation is Pillow's, to one level.

Every view passes through a table of values, a blend and a warp for each operation drawn, which leave it as it is where
its operation is another one or none: so nothing waits for the device.

Dims: B views, K operations of a view, C channels, S side, P = S * S pixels, N = 256 values.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from gmml_cluster.data.affine import warp
from gmml_cluster.data.colours import per_image
from gmml_cluster.data.random.philox_torch import bernoulli, constant, integer, normals
from gmml_cluster.spec.augment import RandAugment

WORDS = 8
"""Random words of an operation: which, applied, two for the strength, sign, and three that are not used."""
OPERATIONS = (
    "auto_contrast",
    "equalize",
    "invert",
    "rotate",
    "posterize",
    "solarize",
    "solarize_add",
    "color",
    "contrast",
    "brightness",
    "sharpness",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
)
"""By the number that is drawn; the number after the last stands for none."""
APPLIED = 0.5
"""Probability that a drawn operation is applied."""
_TURN, _SHEARS, _SHIFTS = math.radians(30), (0.3, 0.3), (0.45, 0.45)
_ENHANCE, _ADDED = 0.9, 110
"""Greatest turn, shear, share of the side, distance of an enhancing factor from 1, and level added below 128."""


class Drawn(NamedTuple):
    """Of each operation of each view (B, K) its number, its strength as a share of the greatest, and its sign."""

    which: Tensor
    share: Tensor
    sign: Tensor


def drawn(drawn_BW: Tensor, spec: RandAugment) -> Drawn:
    """What is done with each view.

    Args:
        drawn_BW: `WORDS` words an operation.
        spec: strength, and number of operations.
    """
    words_BKW = drawn_BW.view(len(drawn_BW), spec.operations, WORDS)
    which_BK = integer(words_BKW[..., 0], len(OPERATIONS))
    which_BK = torch.where(bernoulli(words_BKW[..., 1], APPLIED), which_BK, len(OPERATIONS))
    strength_BK = spec.magnitude + spec.deviation * normals(words_BKW[..., 2:4], torch.float64)[..., 0]
    sign_BK = torch.where(bernoulli(words_BKW[..., 4], 0.5), -1.0, 1.0).double()
    return Drawn(which_BK, strength_BK.clamp(0, 10) / 10, sign_BK)


def rand_augment(x_BCSS: Tensor, drawn_BW: Tensor, spec: RandAugment, fill_C11: Tensor) -> Tensor:
    """Apply each view's operations in the order drawn.

    Args:
        x_BCSS: RGB as whole numbers 0 to 255 in float32.
        drawn_BW: `WORDS` words an operation.
        spec: strength, and number of operations.
        fill_C11: colour of what a warp leaves empty.
    """
    return applied(x_BCSS, drawn(drawn_BW, spec), fill_C11)


def applied(x_BCSS: Tensor, done: Drawn, fill_C11: Tensor) -> Tensor:
    """As `rand_augment`, by operations that are drawn already."""
    tables_BKN, factors_BK = _tables(done), _factors(done)
    matrices_BK23 = _matrices(done, x_BCSS.shape[-1])
    for k in range(done.which.shape[1]):
        which_B, factor_B = done.which[:, k], factors_BK[:, k]
        grey_B1SS = _grey(x_BCSS)
        table_BCN = _table(x_BCSS, grey_B1SS, which_B, factor_B, tables_BKN[:, k])
        enhanced_BCSS = _enhanced(x_BCSS, grey_B1SS, which_B, factor_B)
        looked_up_BCSS = table_BCN.gather(2, x_BCSS.flatten(2).long()).view_as(x_BCSS)
        # at most one of the three changes a view, so their order is of no account
        x_BCSS = torch.where(per_image(_is(which_B, "color", "sharpness")), enhanced_BCSS, looked_up_BCSS)
        x_BCSS = warp(x_BCSS, matrices_BK23[:, k], fill_C11)
    return x_BCSS


def _is(which: Tensor, *names: str) -> Tensor:
    """Whether an operation is one of these."""
    found = which == OPERATIONS.index(names[0])
    for name in names[1:]:
        found = found | (which == OPERATIONS.index(name))
    return found


@cache
def _values(device: torch.device) -> Tensor:
    return constant(torch.arange(256), device)


def _tables(done: Drawn) -> Tensor:
    """What becomes of each value where that hangs on nothing else: float32 (B, K, N)."""
    value_N, which, share = _values(done.which.device), done.which[..., None], done.share[..., None]
    dropped = 4 + (share * 4).long()
    added = torch.where(value_N < 128, (value_N + (share * _ADDED).long()).clamp(max=255), value_N)
    solarized = torch.where(value_N < 256 - (share * 256).long(), value_N, 255 - value_N)
    table = torch.where(_is(which, "solarize_add"), added, value_N)
    table = torch.where(_is(which, "solarize"), solarized, table)
    table = torch.where(_is(which, "posterize"), value_N >> dropped << dropped, table)
    return torch.where(_is(which, "invert"), 255 - value_N, table).float()


def _factors(done: Drawn) -> Tensor:
    """How far colour, contrast, brightness or sharpness are changed, 1 for not at all: float32 (B, K)."""
    return (1 + done.sign * done.share * _ENHANCE).clamp(min=0.1).float()


def _table(x_BCSS: Tensor, grey_B1SS: Tensor, which_B: Tensor, factor_B: Tensor, table_BN: Tensor) -> Tensor:
    """What becomes of each value of each channel: float32 (B, C, N)."""
    value_N, which_B1 = _values(x_BCSS.device), which_B[:, None]
    mean_B1 = (grey_B1SS.mean((2, 3), dtype=torch.float64) + 0.5).floor().float()
    base_B1 = torch.where(_is(which_B1, "contrast"), mean_B1, 0.0)
    blended_BN = _blend(base_B1, value_N.float(), factor_B[:, None])
    table_BN = torch.where(_is(which_B1, "contrast", "brightness"), blended_BN, table_BN)
    count_BCN = _counted(x_BCSS)
    stretched_BCN, equalized_BCN = _stretched(value_N, count_BCN), _equalized(value_N, count_BCN)
    which_B11 = which_B1[:, None]
    table_BCN = torch.where(_is(which_B11, "auto_contrast"), stretched_BCN, table_BN[:, None])
    return torch.where(_is(which_B11, "equalize"), equalized_BCN, table_BCN)


def _counted(x_BCSS: Tensor) -> Tensor:
    """How many of a channel's pixels have each value: int64 (B, C, N)."""
    value_BCP = x_BCSS.flatten(2).long()
    # whole numbers, so that the order of additions does not show; deterministic algorithms have one of their own for it
    count_BCN = value_BCP.new_zeros(*value_BCP.shape[:2], 256)
    return count_BCN.scatter_add_(2, value_BCP, value_BCP.new_ones(1, 1, 1).expand_as(value_BCP))


def _stretched(value_N: Tensor, count_BCN: Tensor) -> Tensor:
    """The channel's least value becomes 0, its greatest 255; one of a single value is left."""
    occurs_BCN = (count_BCN > 0).byte()
    low_BC1 = occurs_BCN.argmax(2, keepdim=True).double()
    span_BC1 = 255 - occurs_BCN.flip(2).argmax(2, keepdim=True) - low_BC1
    scale_BC1 = 255 / span_BC1  # infinite for a single value
    stretched_BCN = (value_N * scale_BC1 - low_BC1 * scale_BC1).clamp(0, 255).floor()
    return torch.where(span_BC1 > 0, stretched_BCN, value_N).float()


def _equalized(value_N: Tensor, count_BCN: Tensor) -> Tensor:
    """Values by the number of the channel's pixels below them; one of too few pixels or values is left."""
    until_BCN = count_BCN.cumsum(2)
    below_BCN = until_BCN - count_BCN
    # the pixels below the greatest value that occurs: no other has all pixels up to it and not all below it
    most_BC1 = torch.where(until_BCN < until_BCN[..., -1:], until_BCN, 0).amax(2, keepdim=True)
    step_BC1 = most_BC1 // 255
    even_BCN = (step_BC1 // 2 + below_BCN) // step_BC1.clamp(min=1)
    return torch.where(step_BC1 > 0, even_BCN.clamp(max=255), value_N).float()


def _blend(base: Tensor, x: Tensor, factor: Tensor) -> Tensor:
    """From the base to x and beyond it, rounded down as Pillow does."""
    return (base + factor * (x - base)).clamp(0, 255).floor()


def _grey(x_BCSS: Tensor) -> Tensor:
    """Pillow's luma (B, 1, S, S), rounded; every sum is below 2**24, so exact in float32."""
    red, green, blue = x_BCSS[:, :, None].unbind(1)
    return ((19595 * red + 38470 * green + 7471 * blue + 32768) / 65536).floor()


def _enhanced(x_BCSS: Tensor, grey_B1SS: Tensor, which_B: Tensor, factor_B: Tensor) -> Tensor:
    """Blended with the grey image where the operation is `color`, else with a smooth one."""
    base_BCSS = torch.where(per_image(_is(which_B, "color")), grey_B1SS, _smooth(x_BCSS))
    return _blend(base_BCSS, x_BCSS, per_image(factor_B))


def _smooth(x_BCSS: Tensor) -> Tensor:
    """Weights of 5 for a pixel and 1 for each of its eight neighbours, rounded; borders are left."""
    rows = x_BCSS[:, :, :-2] + x_BCSS[:, :, 1:-1] + x_BCSS[:, :, 2:]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    out = x_BCSS.clone()
    out[:, :, 1:-1, 1:-1] = ((around + 4 * x_BCSS[:, :, 1:-1, 1:-1]) / 13 + 0.5).floor()
    return out


def _matrices(done: Drawn, size: int) -> Tensor:
    """Where pixels are read, the identity for operations that are no warp: float64 (B, K, 2, 3)."""
    strength_BK1 = (done.sign * done.share)[..., None]
    angle, shear_x, shear_y, shift_x, shift_y = (strength_BK1 * _warps(strength_BK1.device)[done.which]).unbind(2)
    cosine, sine, centre = angle.cos(), angle.sin(), size / 2
    rest = centre - centre * cosine
    column = torch.stack([cosine, shear_x - sine, rest + centre * sine + size * shift_x], 2)
    row = torch.stack([shear_y + sine, cosine, rest - centre * sine + size * shift_y], 2)
    return torch.stack([column, row], 2)


@cache
def _warps(device: torch.device) -> Tensor:
    """Of each operation, and of none, its greatest turn, shears and shifts: float64 (16, 5)."""
    names, greatest = ("rotate", "shear_x", "shear_y", "translate_x", "translate_y"), (_TURN, *_SHEARS, *_SHIFTS)
    table = torch.zeros(len(OPERATIONS) + 1, len(names), dtype=torch.float64)
    for column, (name, value) in enumerate(zip(names, greatest, strict=True)):
        table[OPERATIONS.index(name), column] = value
    return constant(table, device)
