"""GMML's masks over 1,000 draws against a table of 10,000 made apart from this code, within four standard errors."""

import numpy as np
import pytest
import torch

from gmml_cluster.data.random import philox_torch
from gmml_cluster.methods import reference
from gmml_cluster.methods.masks import gmml_rectangles
from gmml_cluster.spec.methods.gmml import GmmlOptions, longest_side

DRAWS, TABLE_DRAWS = 1000, 10_000
AT_ONCE = 10  # what fits a cache: four times as many take half as long again
RATIO = {"noise": 0.75, "alien": 0.30, "noise of 0.70": 0.70, "alien of 0.35": 0.35}

# masked fraction, groups, their area, cells fully masked, cells touched: mean and spread over views;
# side of a group, sum of areas over their union: mean alone
TABLE = {
    (224, 1, 16, "noise"): ((0.6342, 0.0711), (59.5, 15.9), (939, 122), (0.352, 0.075), (0.864, 0.056), 30.6, 1.707),
    (224, 1, 16, "alien"): ((0.3136, 0.0124), (20.5, 4.5), (966, 212), (0.131, 0.025), (0.546, 0.041), 31.0, 1.204),
    (224, 16, 16, "noise"): ((0.6381, 0.0722), (33.4, 8.5), (1612, 164), (0.638, None), (0.638, None), 40.1, 1.648),
    (224, 16, 16, "alien"): ((0.3153, 0.0139), (11.9, 2.2), (1636, 283), (0.315, None), (0.315, None), 40.4, 1.194),
    (224, 16, 16, "noise of 0.70"): (
        *((0.6124, 0.0578), (30.8, 6.8), (1610, 168), (0.612, None), (0.612, None)),
        *(40.1, 1.588),
    ),
    (224, 16, 16, "alien of 0.35"): (
        *((0.3659, 0.0136), (14.3, 2.5), (1626, 252), (0.366, None), (0.366, None)),
        *(40.3, 1.241),
    ),
    (96, 1, 16, "noise"): ((0.6335, 0.0720), (60.4, 15.7), (168, 20), (0.099, None), (0.976, None), 12.9, 1.691),
    (32, 1, 2, "noise"): ((0.6333, 0.0719), (59.5, 14.8), (18.5, 1.9), (0.493, 0.077), (0.768, 0.068), 4.29, 1.658),
    (32, 1, 4, "noise"): ((0.6333, 0.0719), (59.5, 14.8), (18.5, 1.9), (0.250, 0.076), (0.925, 0.047), 4.29, 1.658),
    (32, 1, 4, "alien"): ((0.3117, 0.0101), (20.9, 3.9), (18.8, 3.3), (0.073, 0.028), (0.639, 0.054), 4.33, 1.197),
    (32, 4, 4, "noise"): ((0.6410, 0.0716), (27.6, 7.6), (41.3, 3.6), (0.641, None), (0.641, None), 6.43, 1.704),
    (32, 4, 4, "alien"): ((0.3247, 0.0143), (9.8, 1.8), (41.8, 6.0), (0.325, None), (0.325, None), 6.46, 1.210),
}


def measured(case: tuple[int, int, int, str]) -> dict[str, np.ndarray]:
    """What the table holds, for each of the draws."""
    parts = [measured_some(torch.arange(first, first + AT_ONCE), *case) for first in range(0, DRAWS, AT_ONCE)]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measured_some(numbers: torch.Tensor, size: int, align: int, patch: int, kind: str) -> dict[str, np.ndarray]:
    target = gmml_rectangles.target_pixels(philox_torch.words(0, 40, numbers, 4)[:, 2], RATIO[kind], size)
    longest = longest_side(GmmlOptions(name="gmml"), size)
    candidates = philox_torch.words(0, 34, numbers, gmml_rectangles.WORDS)
    rectangles = gmml_rectangles.rectangles(candidates, size=size, align=align, longest=longest)
    cover = covered(rectangles, target, size, align)
    assert not cover.short.any()
    hidden, cell = cover.shown >= 0, patch // align
    cells = hidden.view(-1, size // patch, cell, size // patch, cell).sum((2, 4)).flatten(1)
    pixels = hidden.sum((1, 2)).numpy() * align**2
    used = (torch.arange(gmml_rectangles.CANDIDATES) <= cover.last[:, None]).numpy()
    heights, widths = ((rectangles.end - rectangles.start)[:, side].numpy() * used for side in range(2))
    groups, areas = used.sum(1), (heights * widths).sum(1)
    return {
        "masked": pixels / size**2,
        "groups": groups,
        "area": areas / groups,
        "full": (cells == cell**2).double().mean(1).numpy(),
        "touched": (cells > 0).double().mean(1).numpy(),
        "height": heights.sum(1) / groups,
        "width": widths.sum(1) / groups,
        "overlap": areas / pixels,
    }


def covered(
    rectangles: gmml_rectangles.Rectangles, target: torch.Tensor, size: int, align: int
) -> gmml_rectangles.Cover:
    """The cover at a pixel for each square of the grid, which rectangles cut nowhere."""
    edges = rectangles.start, rectangles.end
    assert all((edge % align == 0).all() for edge in edges)
    squares = gmml_rectangles.Rectangles(*(edge // align for edge in edges))
    return gmml_rectangles.cover(squares, -(-target // align**2), size=size // align)


def assert_mean(values: np.ndarray, mean: float, spread: float | None) -> None:
    """The mean within four standard errors of the table's, and of its last digit."""
    error = (values.std() if spread is None else spread) * (1 / len(values) + 1 / TABLE_DRAWS) ** 0.5
    digit = 0.5 * 10.0 ** -len(f"{mean}".partition(".")[2])
    assert abs(values.mean() - mean) <= 4 * error + digit


@pytest.mark.parametrize("case", TABLE, ids=str)
def test_masks_have_the_statistics_of_the_table(case: tuple[int, int, int, str]) -> None:
    found = measured(case)
    masked, groups, area, full, touched, side, overlap = TABLE[case]
    for name, (mean, spread) in zip(
        ("masked", "groups", "area", "full", "touched"), (masked, groups, area, full, touched), strict=True
    ):
        assert_mean(found[name], mean, spread)
    for name, mean in (("height", side), ("width", side), ("overlap", overlap)):
        assert_mean(found[name], mean, None)
    assert found["masked"].std() == pytest.approx(masked[1], rel=0.12), "spread over views"


@pytest.mark.parametrize(("align", "mean", "spread"), [(1, 0.4725, 0.1688), (4, 0.4829, 0.1664)])
def test_released_mixture_is_half_noise_and_half_alien(align: int, mean: float, spread: float) -> None:
    model = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "image_size": 32, "mlp_ratio": 4, "drop_path": 0}
    spec = {"model": model, "method": {"name": "gmml", "align": align, "views": 1}, "data": {"group": 8}, "seed": 0}
    source = reference.draw(spec, range(DRAWS), names=["source"])["source"]
    assert_mean((source != -1).mean((1, 2, 3)), mean, spread)
    assert_mean((source >= 0).any((1, 2, 3)).astype(float), 0.5, 0.5)
