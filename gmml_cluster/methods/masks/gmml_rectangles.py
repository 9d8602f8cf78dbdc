"""GMML's rectangles for a whole batch in static shapes, without waiting for the device (docs/reference/methods.md).

The grid is that of pixels; corners and sides lie on multiples of a step, 1 as released or the side of a patch.

The rule is sequential: draw rectangles until their union holds enough pixels. A loop would read a count back from the
device after each rectangle. Here a fixed 192 candidates are drawn; each pixel takes the least index of a rectangle that
covers it, pixels are counted by index, and the first index whose cumulated count suffices is the last one used. That a
rectangle reaches a row, or a column, is one bit, so that one `and` of int64 tests 48 rectangles at a pixel.

Dims: n views, R rectangles, S side of an image, W int64 of 48 rectangles each.
"""

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox_torch import constant, integer
from gmml_cluster.spec.methods.gmml import CANDIDATES as CANDIDATES

WORDS = 4 * CANDIDATES
"""Words that a view's rectangles take."""
_BITS = 48  # a float64 holds them exactly, and its exponent says which is the highest
_PIXELS_AT_ONCE = {"cpu": 1 << 20, "gpu": 1 << 23}
"""On a CPU what a cache holds; on a GPU what bounds the memory to some 0.5 GB."""


@dataclass(frozen=True)
class Rectangles:
    """Candidates of each view, in the order of drawing.

    Attributes:
        start: int64 (n, 2, R), first row and first column.
        end: int64 (n, 2, R), the row and the column after the last.
    """

    start: Tensor
    end: Tensor

    def __getitem__(self, views: slice) -> "Rectangles":
        return Rectangles(self.start[views], self.end[views])


@dataclass(frozen=True)
class Cover:
    """Which rectangle shows at each pixel.

    Attributes:
        shown: int64 (n, S, S), index of a rectangle, -1 where the pixel is not hidden.
        last: int64 (n,), index of the last rectangle used.
        short: bool (n,), views whose union is too small with all candidates.
    """

    shown: Tensor
    last: Tensor
    short: Tensor


def rectangles(words_nM: Tensor, *, size: int, align: int, longest: int) -> Rectangles:
    """The candidates of each view.

    Args:
        words_nM: `WORDS` words of purpose `RECTANGLES` a view; of four, two make the corner and two the sides.
        size: side of the image in pixels.
        align: step of corners and sides in pixels; divides `size`.
        longest: sides are below this before rounding; greater than `align`.
    """
    return Rectangles(*_bounds(words_nM, size, align, longest))


def _bounds(words_nM: Tensor, size: int, align: int, longest: int) -> tuple[Tensor, Tensor]:
    words_n4R = words_nM.reshape(len(words_nM), -1, 4).transpose(1, 2)
    start_n2R = integer(words_n4R[:, :2], size - align)
    if align > 1:
        start_n2R = start_n2R // align * align
    sides_n2R = torch.minimum(align + integer(words_n4R[:, 2:], longest - align), size - start_n2R)
    return start_n2R, start_n2R + _to_multiple(sides_n2R, align)


def _to_multiple(lengths: Tensor, step: int) -> Tensor:
    """The nearest multiple; of two equally near the even one, as Python and NumPy round."""
    if step == 1:
        return lengths
    quotient, rest = lengths // step, lengths % step
    up = (2 * rest > step) | ((2 * rest == step) & (quotient % 2 == 1))
    return (quotient + up) * step


def target_pixels(words_n: Tensor, ratio: float, size: int) -> Tensor:
    """Pixels that the union must hold: uniform on min(1/2, ratio) .. ratio of the image.

    The ratio is taken as the decimal it is written as: 0.3 of 1024 is 307.2, and not what is nearest in binary.
    """
    high = Fraction(str(ratio)) * size * size
    low = min(Fraction(size * size, 2), high)
    if low == high:
        return torch.full_like(words_n, math.ceil(low))
    return math.floor(low) + 1 + integer(words_n, math.ceil(high) - math.floor(low))


def cover(rectangles: Rectangles, target_n: Tensor, *, size: int, topmost: bool = False) -> Cover:
    """Hide pixels by rectangles in their order until the target is reached.

    Args:
        rectangles: candidates.
        target_n: pixels to hide at least.
        size: side of the image in pixels.
        topmost: whether a hidden pixel shows the last rectangle laid over it, rather than the first.
    """
    some = max(1, _PIXELS_AT_ONCE["cpu" if target_n.device.type == "cpu" else "gpu"] // size**2)
    constants = _lines_and_bits(size, CANDIDATES, _BITS, target_n.device)
    parts = [
        _cover_some(start_n2R, end_n2R, some_n, *constants, topmost)
        for start_n2R, end_n2R, some_n in zip(
            *(torch.split(bound, some) for bound in (rectangles.start, rectangles.end, target_n)), strict=True
        )
    ]
    return Cover(*(parts[0] if len(parts) == 1 else map(torch.cat, zip(*parts, strict=True))))


def _cover_some(
    start_n2R: Tensor, end_n2R: Tensor, target_n: Tensor, line_S: Tensor, bits_R1: Tensor, topmost: bool
) -> tuple[Tensor, Tensor, Tensor]:
    rows_nWS, columns_nWS = _pack(start_n2R, end_n2R, line_S, bits_R1)
    lowest = _lowest(rows_nWS, columns_nWS)
    last_n, short_n = _last_needed(lowest, target_n)
    seen = lowest > last_n[:, None, None]
    shown = _highest(rows_nWS, columns_nWS, last_n) if topmost else lowest
    return shown.masked_fill_(seen, -1), last_n, short_n


def _pack(start_n2R: Tensor, end_n2R: Tensor, line_S: Tensor, bits_R1: Tensor) -> tuple[Tensor, Tensor]:
    """For rows and for columns int64 (n, W, S), whose bit k says that rectangle 48 w + k reaches the line."""
    reaches_n2RS = (line_S >= start_n2R[..., None]) & (line_S < end_n2R[..., None])
    packed_n2WS = (reaches_n2RS * bits_R1).view(len(reaches_n2RS), 2, -1, _BITS, len(line_S)).sum(3)
    return packed_n2WS[:, 0], packed_n2WS[:, 1]


@lru_cache(maxsize=16)
def _lines_and_bits(size: int, candidates: int, bits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The lines of an image (S,), and the bit of each rectangle (R, 1)."""
    return constant(torch.arange(size), device), constant(1 << (torch.arange(candidates)[:, None] % bits), device)


def _both(rows_nWS: Tensor, columns_nWS: Tensor, word: int) -> Tensor:
    return rows_nWS[:, word, :, None] & columns_nWS[:, word, None, :]


def _lowest(rows_nWS: Tensor, columns_nWS: Tensor) -> Tensor:
    """Least index that covers each pixel (n, S, S), `CANDIDATES` where none does."""
    found = _both(rows_nWS, columns_nWS, 0)
    base = torch.zeros_like(found)
    for word in range(1, rows_nWS.shape[1]):
        none = found == 0
        base.masked_fill_(none, word * _BITS)
        found = torch.where(none, _both(rows_nWS, columns_nWS, word), found)
    return (base + _exponent(found & -found)).masked_fill_(found == 0, CANDIDATES)


def _highest(rows_nWS: Tensor, columns_nWS: Tensor, last_n: Tensor) -> Tensor:
    """Greatest index up to `last_n` that covers each pixel; of no meaning where none does."""
    words_W = torch.arange(rows_nWS.shape[1], device=last_n.device)
    used_nW = (last_n[:, None] + 1 - words_W * _BITS).clamp(0, _BITS)
    rows_nWS = rows_nWS & ((1 << used_nW) - 1)[:, :, None]
    found = _both(rows_nWS, columns_nWS, 0)
    base = torch.zeros_like(found)
    for word in range(1, rows_nWS.shape[1]):
        later = _both(rows_nWS, columns_nWS, word)
        is_later = later != 0
        base.masked_fill_(is_later, word * _BITS)
        found = torch.where(is_later, later, found)
    return base + _exponent(found)


def _exponent(found: Tensor) -> Tensor:
    """Place of the highest bit, read from the exponent of the exact float64."""
    return (found.double().view(torch.int64) >> 52) - 1023


def _last_needed(lowest: Tensor, target_n: Tensor) -> tuple[Tensor, Tensor]:
    bins = CANDIDATES + 1
    views = torch.arange(len(target_n), device=lowest.device)
    flat = (lowest + views[:, None, None] * bins).flatten()
    counts = flat.new_zeros(len(target_n) * bins).scatter_add_(0, flat, torch.ones_like(flat)).view(-1, bins)
    before = (counts[:, :CANDIDATES].cumsum(1) < target_n[:, None]).sum(1)
    return before.clamp(max=CANDIDATES - 1), before == CANDIDATES
