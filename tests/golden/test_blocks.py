"""BEiT's blocks: reference draws computed apart from this code, the rule by brute force, and statistics."""

import math
import zlib

import numpy as np
import pytest
import torch

from gmml_cluster.data.random import philox
from gmml_cluster.methods.masks.blocks import masked_blocks

FAR = 2**33 + 7


def test_blocks_are_the_reference() -> None:
    masks, laid = masked_blocks(7, torch.tensor([0, 1, FAR]), grid=14, target=75)
    assert masks.sum(1).tolist() == [75, 75, 75]
    assert laid.tolist() == [7, 2, 5]
    crcs = [zlib.crc32(np.packbits(mask).tobytes()) for mask in masks.numpy()]
    assert crcs == [2656344402, 1924209201, 3215439387]


def by_sets(seed: int, number: int, grid: int, target: int, least: int) -> set[tuple[int, int]]:
    """The rule word by word, with sets of patches."""
    words = [int(w) for w in philox.words(seed, philox.Purpose.BLOCKS, np.array([number]), 4 * 10 * (target + 1))[0]]
    hidden: set[tuple[int, int]] = set()
    for rectangle in range(target):
        room = target - len(hidden)
        for attempt in range(10):
            block = 10 * rectangle + attempt
            u = [(w >> 8) / 2**24 for w in words[4 * block : 4 * block + 2]]
            area, aspect = (
                least + (room - least) * u[0],
                math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * u[1]),
            )
            height, width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
            if height >= grid or width >= grid:
                continue
            top, left = (
                words[4 * block + 2 + axis] * (grid - side + 1) // 2**32 for axis, side in enumerate((height, width))
            )
            new = {(top + y, left + x) for y in range(height) for x in range(width)} - hidden
            if 0 < len(new) <= room:
                hidden |= new
                break
        else:
            return hidden
        if len(hidden) >= target:
            return hidden
    return hidden


@pytest.mark.parametrize(("grid", "target", "least"), [(14, 75, 16), (14, 147, 16), (8, 25, 4), (3, 8, 1)])
def test_blocks_follow_the_rule(grid: int, target: int, least: int) -> None:
    masks, _ = masked_blocks(3, torch.arange(40), grid=grid, target=target, least_area=least)
    for number, mask in enumerate(masks.view(-1, grid, grid)):
        found = {(y, x) for y, x in mask.nonzero().tolist()}
        assert found == by_sets(3, number, grid, target, least)


def test_blocks_have_the_statistics_of_the_table() -> None:
    masks, laid = masked_blocks(0, torch.arange(1000), grid=14, target=75)
    counts, shares = masks.sum(1).double(), masks.double().mean(0).view(14, 14)
    assert counts.mean() == pytest.approx(74.49, abs=4 * 0.97 / 1000**0.5)
    assert counts.max() == 75
    assert (counts == 75).double().mean() == pytest.approx(0.675, abs=4 * 0.0148)
    assert laid.double().mean() == pytest.approx(4.1, abs=0.3)
    for place, share in (((0, 0), 0.040), ((0, 7), 0.19), ((7, 7), 0.72)):
        assert shares[place] == pytest.approx(share, abs=4.5 * (share * (1 - share) / 1000) ** 0.5 + 0.005)
