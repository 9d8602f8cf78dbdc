"""Multi-block masks: what holds for every image, and the statistics that an independent sampler gave."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.data.random import philox
from gmml_cluster.methods.ijepa import mask_rule
from gmml_cluster.methods.masks.multi_block import FixedRule, Masks, PaddedRule, context_tokens, covered, target_tokens
from gmml_cluster.spec.methods import multi_block
from gmml_cluster.spec.methods.ijepa import IjepaOptions

SCALE = (0.15, 0.2)
COUNT = 1000


def rule(grid: int, group: int = 1, **options: Any) -> FixedRule | PaddedRule:
    return mask_rule(IjepaOptions(name="ijepa", **options), grid, group)


def masks(grid: int, group: int = 1, count: int = COUNT, seed: int = 0, **options: Any) -> Masks:
    return rule(grid, group, **options).draw(seed, torch.arange(count))


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        (8, [((3, 3), 8134408), ((4, 3), 2**24)]),
        (
            14,
            [
                ((5, 6), 4451099),
                ((6, 6), 7626008),
                ((6, 5), 7875020),
                ((6, 6), 8365499),
                ((6, 5), 10226113),
                ((7, 5), 16335711),
                ((8, 5), 2**24),
            ],
        ),
    ],
)
def test_sizes_of_targets_are_those_of_the_table(grid: int, expected: list[tuple[tuple[int, int], int]]) -> None:
    found = multi_block.target_sizes(grid, "released", SCALE)
    assert list(zip(found.sizes, found.ends, strict=True)) == expected


def test_fixed_sizes_are_those_that_the_reference_names() -> None:
    grids = (8, 14, 16)
    assert [multi_block.fixed_target(grid, "released", SCALE) for grid in grids] == [(3, 4), (5, 7), (6, 7)]
    assert [multi_block.fixed_context(grid, "released") for grid in grids] == [12, 48, 64]
    assert multi_block.fixed_context(8, "full") == 16
    assert multi_block.most_context(14, "released", SCALE) == 139


@pytest.mark.parametrize("border", ["released", "full"])
@pytest.mark.parametrize("grid", [8, 14, 16])
def test_fixed_masks_have_one_size_and_contexts_without_targets(grid: int, border: str) -> None:
    drawn = masks(grid, border=border)
    short, long = multi_block.fixed_target(grid, border, SCALE)  # type: ignore[arg-type]
    sides = drawn.target[..., 2:]
    assert torch.equal(sides.amin(2), torch.full_like(sides[..., 0], short))
    assert torch.equal(sides.amax(2), torch.full_like(sides[..., 0], long))
    assert float((sides[..., 0] == short).double().mean()) == pytest.approx(0.5, abs=4 * 0.5 / (4 * COUNT) ** 0.5)
    reach = multi_block.reach(grid, border)  # type: ignore[arg-type]
    assert int((drawn.target[..., :2] + sides).max()) == reach
    assert set(drawn.context.sum(1).tolist()) == {multi_block.fixed_context(grid, border)}  # type: ignore[arg-type]
    assert not drawn.short.any()
    assert not (drawn.context & covered(drawn.target, grid).any(1)).any()


@pytest.mark.parametrize(("grid", "share"), [(14, 0.0070), (16, 0.0013), (8, 0.0385)])
def test_one_set_of_places_fails_as_seldom_as_in_another_sampler(
    grid: int, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gmml_cluster.methods.masks.multi_block.TRIES", 1)
    drawn = masks(grid, count=4 * COUNT)
    assert float(drawn.short.double().mean()) == pytest.approx(share, abs=4 * (share / (4 * COUNT)) ** 0.5)


def test_a_context_that_no_set_leaves_is_filled_with_patches_of_targets_and_counted() -> None:
    drawn = masks(8, context_patches=34)
    assert set(drawn.context.sum(1).tolist()) == {34}
    taken = covered(drawn.target, 8).any(1)
    reused = (drawn.context & taken).any(1)
    assert drawn.short.any()
    assert not drawn.short.all()
    assert torch.equal(reused, drawn.short)
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[:7, :7] = False
    assert not (drawn.context & outside.flatten()).any(), "filled from targets before anything else"


@pytest.mark.parametrize(
    ("grid", "min_keep", "target", "union", "context", "percentiles"),
    [
        (14, 10, (33.5, 2.8), (87.4, 13.8), (81.7, 13.8), (50, 59, 104)),
        (8, 4, (10.5, 1.5), (27.4, 4.8), (21.6, 4.8), (11, 14, 30)),
    ],
)
def test_padded_masks_have_the_statistics_of_the_reference(
    grid: int,
    min_keep: int,
    target: tuple[float, float],
    union: tuple[float, float],
    context: tuple[float, float],
    percentiles: tuple[int, ...],
) -> None:
    drawn = masks(grid, count=4 * COUNT, masks="padded", min_keep=min_keep)
    areas = (drawn.target[..., 2] * drawn.target[..., 3]).double()
    assert torch.equal(areas.amin(1), areas.amax(1))
    taken = covered(drawn.target, grid).any(1)
    for values, (mean, std) in zip(
        (areas[:, 0], taken.sum(1), drawn.context.sum(1)), (target, union, context), strict=True
    ):
        margin = 4 * std / (4 * COUNT) ** 0.5 + 0.05
        assert float(values.double().mean()) == pytest.approx(mean, abs=margin)
        assert float(values.double().std()) == pytest.approx(std, abs=margin)
    counts = drawn.context.sum(1)
    assert np.percentile(counts, (1, 5, 95)) == pytest.approx(percentiles, abs=2)
    assert int(counts.min()) > min_keep
    assert not (drawn.context & taken).any()
    assert not drawn.short.any()


@pytest.mark.parametrize(("grid", "min_keep", "mean", "std"), [(14, 10, 91.1, 15), (8, 4, 30.8, 6)])
def test_a_full_border_leaves_more_context(grid: int, min_keep: int, mean: float, std: float) -> None:
    counts = masks(grid, count=4 * COUNT, masks="padded", min_keep=min_keep, border="full").context.sum(1).double()
    assert float(counts.mean()) == pytest.approx(mean, abs=4 * std / (4 * COUNT) ** 0.5)


def test_with_padded_masks_a_group_shares_its_sizes_and_nothing_else() -> None:
    drawn = masks(14, group=8, masks="padded")
    sides = drawn.target[..., 2:].view(-1, 8 * 4, 2)
    assert torch.equal(sides.amin(1), sides.amax(1))
    assert len(sides[:, 0].unique(dim=0)) > 3
    assert len(drawn.target[:8, 0, :2].unique(dim=0)) > 4


def test_targets_are_left_in_a_context_from_the_last_where_no_place_leaves_enough() -> None:
    few = masks(8, masks="padded", min_keep=4)
    drawn = PaddedRule(**{**vars(rule(8, masks="padded", min_keep=4)), "min_keep": 25}).draw(0, torch.arange(COUNT))
    assert torch.equal(few.target, drawn.target)
    each, frame = covered(drawn.target, 8), torch.zeros(8, 8, dtype=torch.bool)
    frame[:7, :7] = True
    for image in range(50):
        kept = 4
        while int((frame.flatten() & ~each[image, :kept].any(0)).sum()) <= 25:
            kept -= 1
        assert torch.equal(drawn.context[image], frame.flatten() & ~each[image, :kept].any(0))
        assert bool(drawn.short[image]) == (kept < 4)
    assert int(drawn.context.sum(1).min()) > 25


def test_a_greater_context_than_the_sequence_holds_is_cut_at_random() -> None:
    whole, cut = (masks(14, masks="padded", **options) for options in ({}, {"context_patches": 80}))
    assert torch.equal(cut.context.sum(1), whole.context.sum(1).clamp(max=80))
    assert not (cut.context & ~whole.context).any()
    lost = (whole.context & ~cut.context).view(COUNT, 14, 14).sum((0, 2)).double()
    held = whole.context.view(COUNT, 14, 14).sum((0, 2)).double()
    shares = (lost / held)[:13]
    assert float(shares.max() / shares.min()) < 3, "no row is preferred"


def by_integers(seed: int, number: int, grid: int, keep: int) -> tuple[list[tuple[int, ...]], list[int]]:
    """Fixed masks of one image with plain integers: rectangles, and the context's patches."""

    def word(stream: int, index: int) -> int:
        return int(philox.words(seed, 37, np.array([number]), index + 1, stream=stream)[0, index])

    def place(stream: int, block: int, height: int, width: int) -> tuple[int, ...]:
        corner = [word(stream, 4 * block + k) * (grid - side) >> 32 for k, side in enumerate((height, width))]
        return (*corner, height, width)

    def cells(rectangle: tuple[int, ...]) -> Iterator[int]:
        top, left, height, width = rectangle
        return (row * grid + column for row in range(top, top + height) for column in range(left, left + width))

    short, long = multi_block.fixed_target(grid, "released", SCALE)
    sides = [(long, short) if word(1, 4 * (64 + m)) >= 2**31 else (short, long) for m in range(4)]
    area = int(grid**2 * (0.85 + (word(0, 1) >> 8) / 2**24 * (1.0 - 0.85)))
    side = min(round(area**0.5), grid - 1)
    for attempt in range(8):
        targets = [place(1, 4 * attempt + m, *sides[m]) for m in range(4)]
        taken = {cell for target in targets for cell in cells(target)}
        left = [cell for cell in cells(place(2, attempt, side, side)) if cell not in taken]
        if len(left) >= keep:
            return targets, sorted(sorted(left, key=lambda cell: (word(3, cell) << 16) + cell)[:keep])
    raise AssertionError("no set of places leaves enough")


@pytest.mark.parametrize(("number", "grid"), [(0, 8), (1, 8), (2**33 + 7, 8), (5, 14)])
def test_fixed_masks_are_those_of_plain_integers(number: int, grid: int) -> None:
    drawn = rule(grid).draw(7, torch.tensor([number]))
    targets, kept = by_integers(7, number, grid, multi_block.fixed_context(grid, "released"))
    assert drawn.target[0].tolist() == [list(target) for target in targets]
    assert drawn.context[0].nonzero().flatten().tolist() == kept


def test_tokens_name_the_patches_and_fill_up_with_the_first() -> None:
    index, real = target_tokens(torch.tensor([[[1, 2, 2, 3], [0, 0, 1, 1]]]), 8, 7)
    assert index[0].tolist() == [[10, 11, 12, 18, 19, 20, 0], [0] * 7]
    assert real[0].sum(1).tolist() == [6, 1]
    context = torch.zeros(2, 16, dtype=torch.bool)
    context[0, [3, 9]] = context[1, 5] = True
    index, real = context_tokens(context, 3)
    assert index.tolist() == [[3, 9, 0], [5, 0, 0]]
    assert real.tolist() == [[True, True, False], [True, False, False]]


@pytest.mark.parametrize("options", [{}, {"masks": "padded"}, {"masks": "padded", "context_patches": 60}], ids=str)
def test_masks_depend_on_no_other_image_that_is_drawn_beside(options: dict[str, Any]) -> None:
    whole, one = (
        rule(14, 4, **options).draw(3, torch.arange(40, 48)),
        rule(14, 4, **options).draw(3, torch.tensor([45])),
    )
    assert torch.equal(whole.target[5:6], one.target)
    assert torch.equal(whole.context[5:6], one.context)
