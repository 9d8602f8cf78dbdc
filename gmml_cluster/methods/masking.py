"""GMML's rectangles, drawn for a whole batch in static shapes without waiting for the device.

The law is sequential: draw rectangles until their union holds enough pixels. Here a fixed 192 are drawn; each pixel
takes the least index of a rectangle that covers it, pixels are counted by index, and the first index whose cumulated
count suffices ends the list. METHODS 1.3, 9.1; the packing is 10.3's.

Dims: n views, R rectangles, S side of an image, W words of 48 rectangles.
"""

import math
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import integer, words
from gmml_cluster.spec.methods.reach import CANDIDATES as CANDIDATES

_BITS = 48
_PIXELS_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class Rectangles:
    """Candidates of each view, in the order of drawing; all int64 (n, R), ends excluded."""

    top: Tensor
    bottom: Tensor
    left: Tensor
    right: Tensor

    def __getitem__(self, views: slice) -> "Rectangles":
        return Rectangles(self.top[views], self.bottom[views], self.left[views], self.right[views])


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


def draw_rectangles(seed: int, numbers: Tensor, *, views: int, size: int, align: int, longest: int) -> Rectangles:
    """Candidates of the views of each number, a number's views side by side.

    Args:
        seed: the run's.
        numbers: int64 (n,).
        views: views of each number.
        size: side of the image in pixels.
        align: step of corners and sides in pixels; divides `size`.
        longest: sides are below this before rounding; greater than `align`.
    """
    streams = [words(seed, Purpose.RECTANGLES, numbers, 4 * CANDIDATES, view) for view in range(views)]
    drawn_nR4 = torch.stack(streams, 1).view(-1, CANDIDATES, 4)
    top, left = (integer(drawn_nR4[..., lane], size - align) // align * align for lane in (0, 1))
    height, width = (align + integer(drawn_nR4[..., lane], longest - align) for lane in (2, 3))
    height = _to_multiple(torch.minimum(height, size - top), align)
    width = _to_multiple(torch.minimum(width, size - left), align)
    return Rectangles(top, top + height, left, left + width)


def _to_multiple(lengths: Tensor, step: int) -> Tensor:
    """The nearest multiple; of two equally near the even one."""
    quotient, rest = lengths // step, lengths % step
    up = (2 * rest > step) | ((2 * rest == step) & (quotient % 2 == 1))
    return (quotient + up) * step


def target_pixels(words_n: Tensor, ratio: float, size: int) -> Tensor:
    """Pixels that the union must hold: uniform on min(1/2, ratio) .. ratio of the image, in exact decimals."""
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
    some = max(1, _PIXELS_AT_ONCE // size**2)
    parts = [
        _cover_some(rectangles[first : first + some], target_n[first : first + some], size, topmost)
        for first in range(0, len(target_n), some)
    ]
    return Cover(*(torch.cat([getattr(part, name) for part in parts]) for name in ("shown", "last", "short")))


def _cover_some(rectangles: Rectangles, target_n: Tensor, size: int, topmost: bool) -> Cover:
    rows_nWS = _pack(rectangles.top, rectangles.bottom, size)
    columns_nWS = _pack(rectangles.left, rectangles.right, size)
    lowest = _lowest(rows_nWS, columns_nWS)
    last_n, short_n = _last_needed(lowest, target_n)
    hidden = lowest <= last_n[:, None, None]
    shown = _highest(rows_nWS, columns_nWS, last_n) if topmost else lowest
    return Cover(torch.where(hidden, shown, -1), last_n, short_n)


def _pack(start_nR: Tensor, end_nR: Tensor, size: int) -> Tensor:
    """Words (n, W, S) whose bit k says that rectangle 48 w + k reaches the line."""
    line = torch.arange(size, device=start_nR.device)
    reaches = (line >= start_nR[..., None]) & (line < end_nR[..., None])
    bits = 1 << (torch.arange(CANDIDATES, device=start_nR.device) % _BITS)
    return torch.where(reaches, bits[:, None], 0).view(len(start_nR), -1, _BITS, size).sum(2)


def _both(rows_nWS: Tensor, columns_nWS: Tensor, word: int) -> Tensor:
    return rows_nWS[:, word, :, None] & columns_nWS[:, word, None, :]


def _lowest(rows_nWS: Tensor, columns_nWS: Tensor) -> Tensor:
    """Least index that covers each pixel (n, S, S), `CANDIDATES` where none does."""
    found = _both(rows_nWS, columns_nWS, 0)
    base = torch.zeros_like(found)
    for word in range(1, rows_nWS.shape[1]):
        none = found == 0
        base = torch.where(none, word * _BITS, base)
        found = torch.where(none, _both(rows_nWS, columns_nWS, word), found)
    return torch.where(found == 0, CANDIDATES, base + _exponent(found & -found))


def _highest(rows_nWS: Tensor, columns_nWS: Tensor, last_n: Tensor) -> Tensor:
    """Greatest index up to `last_n` that covers each pixel; of no meaning where none does."""
    words_W = torch.arange(rows_nWS.shape[1], device=last_n.device)
    used_nW = (last_n[:, None] + 1 - words_W * _BITS).clamp(0, _BITS)
    rows_nWS = rows_nWS & ((1 << used_nW) - 1)[:, :, None]
    found = _both(rows_nWS, columns_nWS, 0)
    base = torch.zeros_like(found)
    for word in range(1, rows_nWS.shape[1]):
        later = _both(rows_nWS, columns_nWS, word)
        base = torch.where(later != 0, word * _BITS, base)
        found = torch.where(later != 0, later, found)
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
