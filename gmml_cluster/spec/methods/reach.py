"""How much of an image GMML's candidate rectangles can hide, in expectation. Torch-free.

The draws are those of `gmml_cluster.methods.masking`: corners on a grid, sides below the longest, cut at the edges.
"""

from functools import lru_cache

CANDIDATES = 192
"""Rectangles drawn for a view, in static shapes."""
SPREAD = 0.11
"""How far below the expectation the least of 3,000 views lay, at 32 to 224 pixels: 0.05 to 0.104, measured."""
_LINES = 48


@lru_cache(maxsize=64)
def reach(size: int, step: int, longest: int) -> float:
    """Expected share of the image that the union of all candidates holds.

    Args:
        size: side of the image in pixels.
        step: of corners and sides in pixels, below `longest`.
        longest: sides are below this.
    """
    hit = _hit(size, step, longest)
    pixels = [1 - (1 - row * column) ** CANDIDATES for row in hit for column in hit]
    return sum(pixels) / len(pixels)


def _hit(size: int, step: int, longest: int) -> list[float]:
    """Of lines spread over the image, how likely a rectangle reaches each."""
    lines = [int((place + 0.5) * size / min(size, _LINES)) for place in range(min(size, _LINES))]
    tops = range(0, size - step, step)
    sides = [round(side / step) * step for side in range(step, longest)]
    longer = [sum(side > distance for side in sides) for distance in range(max(sides) + 1)]
    times = [sum(longer[line - top] for top in tops if 0 <= line - top < len(longer)) for line in lines]
    return [count / (len(tops) * len(sides)) for count in times]
