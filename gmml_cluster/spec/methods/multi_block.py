"""Sizes of I-JEPA's rectangles without torch: what the plan counts and the rules need to know of multi-block masks.

The masks themselves: `gmml_cluster.methods.multi_block`. Rules and constants: docs/reference/methods.md.

Dims: g patches of a side of the grid, N = g g patches; areas and sides are in patches.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

ASPECT = (0.75, 1.5)
"""Height over width of a target."""
SQUARE = (1.0, 1.0)
CONTEXT_PATCHES = {8: 12, 14: 48, 16: 64}
"""Patches of a context of one size where the border is as released: what a set of places fails to leave in 3.8, 0.7
and 0.1 per cent of images."""
_LAST = 2**24 - 1

Border = Literal["released", "full"]
Size = tuple[int, int]
Scale = tuple[float, float]


@dataclass(frozen=True)
class Sizes:
    """What a uniform number means as a rectangle's height and width.

    Attributes:
        sizes: (height, width), in the order of the numbers that give them; a size may come again.
        ends: of each the first 24-bit number that is above it; the last is 2**24.
    """

    sizes: tuple[Size, ...]
    ends: tuple[int, ...]

    @property
    def areas(self) -> tuple[int, ...]:
        """Patches of each size."""
        return tuple(height * width for height, width in self.sizes)


def reach(grid: int, border: Border) -> int:
    """Rows, and columns, that rectangles may cover: as released the last of each is never covered."""
    return grid - 1 if border == "released" else grid


@lru_cache(maxsize=64)
def sizes(grid: int, longest: int, scale: Scale, aspect: Scale) -> Sizes:
    """Sizes by the 24-bit number that area and aspect share.

    With U the number over 2**24: area a = trunc(N (s0 + U (s1 - s0))), aspect r = r0 + U (r1 - r0), height
    round(sqrt(a r)), width round(sqrt(a / r)), half to even, each `longest` at most (arXiv 2301.08243 as released).
    """
    found: list[tuple[Size, int]] = []

    def size(number: int) -> tuple[int, int, int]:
        share = number / 2**24
        area = int(grid**2 * (scale[0] + share * (scale[1] - scale[0])))
        ratio = aspect[0] + share * (aspect[1] - aspect[0])
        height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        return area, max(1, min(height, longest)), max(1, min(width, longest))

    def add(first: int, last: int) -> None:
        # areas grow with the number; at one area heights grow and widths shrink: equal ends mean all are equal
        if size(first) != size(last):
            middle = (first + last) // 2
            add(first, middle)
            add(middle + 1, last)
        elif found and found[-1][0] == size(first)[1:]:
            found[-1] = (found[-1][0], last + 1)
        else:
            found.append((size(first)[1:], last + 1))

    add(0, _LAST)
    return Sizes(tuple(each for each, _ in found), tuple(end for _, end in found))


def target_sizes(grid: int, border: Border, scale: Scale) -> Sizes:
    """Sizes of targets under the released rule."""
    return sizes(grid, reach(grid, border), scale, ASPECT)


def context_sizes(grid: int, border: Border, scale: Scale) -> Sizes:
    """Sizes of contexts, which are square, before targets are taken out."""
    return sizes(grid, reach(grid, border), scale, SQUARE)


def fixed_target(grid: int, border: Border, scale: Scale) -> Size:
    """Shorter and longer side of the targets where all have one area: 5 and 7 at g = 14, 6 and 7 at 16, 3 and 4 at 8.

    The shorter is the root of the mean area, rounded down; the longer makes the area of both the nearest to it.
    """
    area, longest = grid**2 * (scale[0] + scale[1]) / 2, reach(grid, border)
    short = min(longest, max(1, math.floor(math.sqrt(area))))
    return short, min(longest, max(short, round(area / short)))


def fixed_context(grid: int, border: Border) -> int:
    """Patches of every context where all have as many; ours, as no source says."""
    quarter = max(1, reach(grid, border) ** 2 // 16 * 4)
    return CONTEXT_PATCHES.get(grid, quarter) if border == "released" else quarter


def most_context(grid: int, border: Border, scale: Scale) -> int:
    """Patches that a context has at most when targets are taken out: 139 at g = 14 as released."""
    return reach(grid, border) ** 2 - min(target_sizes(grid, border, scale).areas)
