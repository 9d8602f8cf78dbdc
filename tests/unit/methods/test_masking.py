"""Rectangles in static shapes are those of the sequential rule."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import view_words
from gmml_cluster.methods.masks import gmml_rectangles
from gmml_cluster.spec.methods.gmml import GmmlOptions, longest_side

RELEASED = GmmlOptions(name="gmml")
# image sides with the steps that divide them and leave a choice of sides
GRIDS = st.sampled_from([(16, 1), (16, 2), (32, 1), (32, 4), (32, 8), (48, 2), (64, 16)])


def drawn(seed: int, size: int, align: int, numbers: list[int]) -> gmml_rectangles.Rectangles:
    words = view_words(seed, torch.tensor(numbers), 2, {Purpose.RECTANGLES: gmml_rectangles.WORDS})[Purpose.RECTANGLES]
    longest = longest_side(RELEASED, size)
    return gmml_rectangles.rectangles(words.flatten(0, 1), size=size, align=align, longest=longest)


def laid_in_turn(
    rectangles: gmml_rectangles.Rectangles, view: int, target: int, size: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """The rule as a loop: first and last rectangle over each pixel, -1 where none is, and the last one laid."""
    first, last = np.full((size, size), -1), np.full((size, size), -1)
    for index in range(gmml_rectangles.CANDIDATES):
        box = tuple(
            slice(int(rectangles.start[view, side, index]), int(rectangles.end[view, side, index])) for side in range(2)
        )
        first[box] = np.where(first[box] < 0, index, first[box])
        last[box] = index
        if (first >= 0).sum() >= target:
            break
    return first, last, index


@settings(max_examples=20)
@given(grid=GRIDS, seed=st.integers(0, 2**32 - 1), number=st.integers(0, 2**62), share=st.floats(0.01, 0.8))
def test_the_packed_form_is_the_sequential_rule(grid: tuple[int, int], seed: int, number: int, share: float) -> None:
    size, align = grid
    rectangles = drawn(seed, size, align, [number, number + 1])
    targets = torch.tensor([max(1, int(share * size**2))] * 4)
    for topmost in (False, True):
        cover = gmml_rectangles.cover(rectangles, targets, size=size, topmost=topmost)
        for view in range(4):
            first, last, end = laid_in_turn(rectangles, view, int(targets[view]), size)
            assert np.array_equal(cover.shown[view].numpy(), last if topmost else first)
            assert int(cover.last[view]) == end


@settings(max_examples=30)
@given(grid=GRIDS, seed=st.integers(0, 2**32 - 1), number=st.integers(0, 2**62))
def test_rectangles_lie_on_the_grid_and_in_the_image(grid: tuple[int, int], seed: int, number: int) -> None:
    size, align = grid
    rectangles = drawn(seed, size, align, [number])
    start, end = rectangles.start, rectangles.end
    assert not (start % align).any()
    assert not (end % align).any()
    assert bool(((start >= 0) & (start <= size - align - 1) & (end > start) & (end <= size)).all())


def test_a_side_halfway_is_rounded_to_the_even_multiple() -> None:
    sides = torch.tensor([2, 4, 5, 6, 10, 14])
    assert gmml_rectangles._to_multiple(sides, 4).tolist() == [0, 4, 4, 8, 8, 16]


def test_a_view_that_runs_short_is_counted_and_not_silent() -> None:
    corner = torch.zeros(2, 2, gmml_rectangles.CANDIDATES, dtype=torch.int64)
    rectangles = gmml_rectangles.Rectangles(corner, corner + 3)
    cover = gmml_rectangles.cover(rectangles, torch.tensor([9, 10]), size=16)
    assert cover.short.tolist() == [False, True]
    assert (cover.shown >= 0).sum((1, 2)).tolist() == [9, 9]


def test_memory_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rectangles, targets = drawn(3, 32, 1, [0, 1, 2]), torch.full((6,), 500)
    whole = gmml_rectangles.cover(rectangles, targets, size=32)
    monkeypatch.setattr(gmml_rectangles, "_PIXELS_AT_ONCE", {"cpu": 4 * 32**2})
    parts = gmml_rectangles.cover(rectangles, targets, size=32)
    assert torch.equal(whole.shown, parts.shown)
    assert torch.equal(whole.last, parts.last)


@pytest.mark.parametrize(
    ("ratio", "size", "least", "most"),
    [(0.75, 32, 513, 768), (0.3, 32, 308, 308), (0.7, 224, 25089, 35124), (0.5, 16, 128, 128)],
)
def test_targets_span_the_exact_decimals(ratio: float, size: int, least: int, most: int) -> None:
    ends = gmml_rectangles.target_pixels(torch.tensor([0, 2**32 - 1]), ratio, size)
    assert ends.tolist() == [least, most]
