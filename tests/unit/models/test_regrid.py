"""Positions on another grid: against Pillow, torch and scipy's spline; on the same one the bits stay."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from gmml_cluster.models.regrid import differs_in_grid, on_grid
from gmml_cluster.models.relative import table_rows

GRIDS = [(4, 8), (8, 5), (14, 16), (14, 7), (3, 20)]


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("old", "new"), GRIDS)
@pytest.mark.parametrize("prefix", [0, 1])
def test_positions_are_pillows_bicubic_ones_and_the_class_token_stays(old: int, new: int, prefix: int) -> None:
    table = normal(1, prefix + old**2, 3)
    found = on_grid("encoder.pos_embed", table, (1, prefix + new**2, 3))
    assert torch.equal(found[:, :prefix], table[:, :prefix])
    for channel in range(3):
        cells = Image.fromarray(table[0, prefix:, channel].view(old, old).numpy())
        expected = np.asarray(cells.resize((new, new), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(found[0, prefix:, channel].view(new, new).numpy(), expected, atol=5e-6)


@pytest.mark.parametrize(("old", "new"), GRIDS)
def test_positions_are_torchs_as_timm_asks_for_them(old: int, new: int) -> None:
    table = normal(1, 1 + old**2, 5)
    cells = table[:, 1:].unflatten(1, (old, old)).permute(0, 3, 1, 2)
    resized = F.interpolate(cells, size=(new, new), mode="bicubic", antialias=True).flatten(2).mT
    torch.testing.assert_close(on_grid("pos_embed", table, (1, 1 + new**2, 5))[:, 1:], resized, rtol=0, atol=5e-6)


def geometric(half: int, reach: int) -> "np.ndarray[tuple[int], np.dtype[np.float64]]":
    """Distances with a ratio of which the last is `reach`, by BEiT's bisection."""
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        low, high = (low, ratio) if (ratio**half - 1) / (ratio - 1) > reach else (ratio, high)
    ahead = np.cumsum(ratio ** np.arange(half))
    return np.concatenate([-ahead[::-1], [0.0], ahead])


@pytest.mark.parametrize(("old", "new"), [(4, 8), (14, 16), (14, 24), (8, 7), (3, 5)])
def test_relative_biases_are_beits(old: int, new: int) -> None:
    """BEiT's scipy function has gone from scipy; what it computed is this spline."""
    spline = pytest.importorskip("scipy.interpolate").RectBivariateSpline
    table = normal(table_rows(old), 2)
    found = on_grid("rel_pos_bias.relative_position_bias_table", table, (table_rows(new), 2))
    assert torch.equal(found[-3:], table[-3:])
    knots, places = geometric(old - 1, new - 1), np.arange(-(new - 1), new, dtype=np.float64)
    places = places.clip(knots[0], knots[-1])
    for head in range(2):
        values = table[:-3, head].double().view(2 * old - 1, 2 * old - 1).numpy()
        expected = spline(knots, knots, values)(places, places)
        np.testing.assert_allclose(found[:-3, head].view(2 * new - 1, -1).numpy(), expected, atol=2e-5)


@pytest.mark.parametrize(
    ("name", "shape"), [("pos_embed", (1, 17, 4)), ("x.relative_position_bias_table", (table_rows(4), 4))]
)
def test_on_the_same_grid_it_is_the_table_itself(name: str, shape: tuple[int, ...]) -> None:
    table = normal(*shape)
    assert on_grid(name, table, shape) is table
    assert not differs_in_grid(name, shape, shape)


def test_a_constant_table_stays_constant_to_the_last_place() -> None:
    table = torch.full((1, 17, 2), 0.7)
    torch.testing.assert_close(on_grid("pos_embed", table, (1, 50, 2)), torch.full((1, 50, 2), 0.7), rtol=2e-7, atol=0)


@pytest.mark.parametrize(
    ("name", "theirs", "ours", "differs"),
    [
        ("pos_embed", (1, 17, 4), (1, 65, 4), True),
        ("pos_embed", (1, 16, 4), (1, 64, 4), True),
        ("pos_embed", (1, 17, 4), (1, 64, 4), False),
        ("pos_embed", (1, 17, 4), (1, 65, 8), False),
        ("pos_embed", (1, 18, 4), (1, 65, 4), False),
        ("pos_embed", (17, 4), (65, 4), False),
        ("relative_position_bias_table", (table_rows(4), 2), (table_rows(8), 2), True),
        ("relative_position_bias_table", (table_rows(4), 2), (table_rows(8), 3), False),
        ("relative_position_bias_table", (53, 2), (table_rows(8), 2), False),
        ("relative_position_bias_table", (table_rows(2), 2), (table_rows(8), 2), False),
        ("norm.weight", (17,), (65,), False),
    ],
)
def test_what_differs_in_the_grid_alone_is_known(name: str, theirs: object, ours: object, differs: bool) -> None:
    assert differs_in_grid(name, theirs, ours) is differs  # type: ignore[arg-type]
