"""BEiT's blocks: rectangles are laid on the grid of patches until enough are hidden, or until no more fits.

Source: arXiv 2106.08254, algorithm 1, with the constants of its released code (docs/reference/methods.md). Whether a
rectangle is taken depends on all before it, so masks are made on the host, image by image, in float64; they do not
depend on the device. The number hidden differs from image to image and is at most the target.

Dims: n images, g patches of a side of the grid, N = g g patches.
"""

import math
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import words

ATTEMPTS = 10
LEAST_AREA = 16
ASPECT = 0.3
"""Heights are this to 1 / this of widths, log-uniformly."""
_RECTANGLES = 16


def masked_blocks(
    seed: int, numbers: Tensor, *, grid: int, target: int, least_area: int = LEAST_AREA
) -> tuple[Tensor, Tensor]:
    """The patches that rectangles hide, and how many rectangles do.

    Args:
        seed: of the run.
        numbers: sample numbers (n,), on the CPU, as the loop reads them.
        grid: g.
        target: most patches hidden of an image.
        least_area: least area that is drawn for a rectangle, in patches.

    Returns:
        bool (n, N) and int64 (n,), on the CPU.
    """
    made = [_blocks_of(seed, int(number), grid, target, least_area) for number in numbers.tolist()]
    masks = np.stack([mask.ravel() for mask, _ in made]) if made else np.zeros((0, grid**2), bool)
    return torch.from_numpy(masks), torch.tensor([count for _, count in made], dtype=torch.int64)


def _blocks_of(seed: int, number: int, grid: int, target: int, least_area: int) -> tuple[NDArray[np.bool_], int]:
    mask, hidden, laid = np.zeros((grid, grid), dtype=bool), 0, 0
    for attempts in _attempts(seed, number):
        if hidden >= target:
            break
        added = _lay(mask, attempts, target - hidden, least_area)
        if not added:
            break
        hidden, laid = hidden + added, laid + 1
    return mask, laid


def _attempts(seed: int, number: int) -> Iterator[list[list[int]]]:
    """The four words of each attempt of one rectangle after the other; a few are drawn at once, as few are used."""
    count, first = 4 * ATTEMPTS * _RECTANGLES, 0
    while True:
        # philox_torch.words begins at word 0; images that need more than the first rectangles are rare
        drawn = words(seed, Purpose.BLOCKS, torch.tensor([number]), count * (first + 1))[0, count * first :]
        yield from drawn.view(_RECTANGLES, ATTEMPTS, 4).tolist()
        first += 1


def _lay(mask: NDArray[np.bool_], attempts: list[list[int]], room: int, least_area: int) -> int:
    """Lay the first rectangle that fits and hides something new, at most `room`; how many patches it added."""
    grid = len(mask)
    for area_word, aspect_word, top_word, left_word in attempts:
        area = least_area + (room - least_area) * _uniform(area_word)
        aspect = math.exp(math.log(ASPECT) * (1 - 2 * _uniform(aspect_word)))
        height, width = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if height >= grid or width >= grid:
            continue
        top, left = (top_word * (grid - height + 1)) >> 32, (left_word * (grid - width + 1)) >> 32
        part = mask[top : top + height, left : left + width]
        new = part.size - int(part.sum())
        if 0 < new <= room:
            part[:] = True
            return new
    return 0


def _uniform(word: int) -> float:
    return (word >> 8) * 2.0**-24
