"""AMT: reference losses, gradients and orders computed apart from this code, and what throwing means."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.methods import draw, verify
from gmml_cluster.methods.masks.attention import draw_roles, map_weights, weighted_order
from gmml_cluster.spec.methods.amt import AmtOptions, MaeAmtOptions, Roles, cell_roles, token_roles
from tests.golden.test_methods import COUNT, FAR, QKV, RAW, images, state

SPECS = {"mae": {**RAW, "method": {**RAW["method"], "amt": True}}}
EXPECTED = {"mae": ((2.438656500, 2.385019269), 2.702529913, 0.156591013)}
RAMP = (15 * np.arange(1, 17)).astype(np.uint8)


def roles() -> np.ndarray:
    b, i = np.ogrid[:COUNT, :16]
    order = (5 * i + 3 * b) % 16
    return np.where(order < 7, 1, np.where(order < 13, 2, 0)).astype(np.uint8)


@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-6)])
def test_losses_and_gradients_are_the_reference(name: str, dtype: Any, tolerance: float) -> None:
    weights, (losses, norm, qkv) = state(SPECS[name]), EXPECTED[name]
    result = verify(SPECS[name], weights, images(1), {"role": roles()}, dtype=dtype, gradients=list(weights))
    squares = {name: float((g.astype(np.float64) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    assert result.losses == pytest.approx(losses, rel=tolerance)
    assert sum(squares.values()) ** 0.5 == pytest.approx(norm, rel=20 * tolerance)
    assert squares[QKV] ** 0.5 == pytest.approx(qkv, rel=20 * tolerance)


def test_orders_are_the_reference() -> None:
    weights = map_weights(torch.tensor(RAMP).expand(3, 1, 16))
    first = weighted_order(7, torch.tensor([0, 1, FAR]), weights)[:, 0, :8]
    assert first.tolist() == [
        [11, 7, 13, 4, 14, 10, 6, 15],
        [6, 13, 11, 12, 15, 14, 1, 5],
        [8, 0, 11, 13, 7, 10, 12, 15],
    ]


def test_counts_are_those_of_the_released_settings() -> None:
    assert token_roles(MaeAmtOptions(), 196) == Roles(88, 78, 30)
    assert cell_roles(AmtOptions(), 49).times(4) == Roles(88, 52, 56)
    assert token_roles(AmtOptions(), 196) == Roles(86, 51, 59)
    assert token_roles(AmtOptions(mask_ratio=0.75, throw_ratio=0), 196) == Roles(147, 0, 49)
    assert token_roles(AmtOptions(mask_ratio=0.6, throw_ratio=0.15), 196) == Roles(117, 30, 49)


def test_the_first_places_have_the_law_of_sequential_draws() -> None:
    weights = map_weights(torch.tensor([[60, 120, 180, 240]], dtype=torch.uint8)).expand(40_000, 1, 4)
    order = weighted_order(3, torch.arange(40_000), weights)[:, 0]
    law = [[0.1, 0.2, 0.3, 0.4], [0.1349, 0.2409, 0.3086, 0.3155]]
    for place, expected in enumerate(law):
        shares = torch.bincount(order[:, place], minlength=4).double() / len(order)
        assert shares.tolist() == pytest.approx(expected, abs=4.5 * (0.25 / len(order)) ** 0.5)


def test_equal_weights_mask_all_patches_equally_often() -> None:
    flat = torch.full((4000, 1, 16), 7, dtype=torch.uint8)
    found = draw_roles(5, torch.arange(4000), flat, Roles(12, 0, 4))[:, 0]
    assert set((found == 1).sum(1).tolist()) == {12}
    assert float(((found == 1).double().mean(0) - 0.75).abs().max()) < 4.5 * (0.75 * 0.25 / 4000) ** 0.5


def test_masks_follow_the_map_from_the_sample_numbers() -> None:
    maps, spec = np.tile(RAMP, (COUNT, 1)), {**SPECS["mae"], "seed": 7}
    result = verify(spec, state(spec), images(1), {"first": 8, "map": maps}, dtype="float64")
    drawn = draw(spec, range(8, 16), given={"map": maps})
    assert np.array_equal(result.outputs["role"], drawn["role"])
    assert np.array_equal(result.outputs["mask"], drawn["role"] == 1)
    assert [(drawn["role"] == role).sum(1).tolist() for role in (1, 2, 0)] == [[7] * 8, [6] * 8, [3] * 8]
    means = [result.scalars[f"weight_{name}"].sum(0) for name in ("masked", "thrown", "visible")]
    assert sum(mean[0] for mean in means) == pytest.approx(maps.sum() / 255)
    assert means[0][0] / means[0][1] > means[1][0] / means[1][1] > means[2][0] / means[2][1]


def test_without_a_map_masks_are_random_as_without_amt() -> None:
    for given in ({"first": 0}, {"mask": draw(RAW, range(COUNT))["mask"]}):
        first, second = (verify(spec, state(RAW), images(1), given, dtype="float64") for spec in (SPECS["mae"], RAW))
        assert np.array_equal(first.losses, second.losses)
