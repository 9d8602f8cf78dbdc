"""SimMIM: reference losses, gradients and draws computed apart from this code, and random cases of an oracle."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.methods import draw, reference, verify
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.masks.cells import masked_cells
from gmml_cluster.methods.reference import _setting
from gmml_cluster.methods.simmim import to_patches
from gmml_cluster.spec.methods.simmim import SimmimOptions, masked_cell_count
from tests.golden.simmim_oracle import group_loss, reconstruction
from tests.golden.test_methods import COUNT, GROUP, MODEL, PATCH, QKV, images, stand_in

TABLE = "encoder.rel_pos_bias.relative_position_bias_table"
FAR = 2**33 + 7


def spec(model: dict[str, Any] = MODEL, **options: Any) -> dict[str, Any]:
    return {"model": model, "method": {"name": "simmim", **options}, "data": {"group": GROUP}, "seed": 7}


def parameter(name: str, shape: tuple[int, ...]) -> np.ndarray:
    u = stand_in(name, shape)
    if name.endswith("weight"):
        return np.sqrt(3 / np.prod(shape[1:])) * u if len(shape) >= 2 else 1 + 0.2 * u
    return 0.5 + 0.2 * u if "gamma" in name else 0.2 * u


def state(case: dict[str, Any]) -> dict[str, np.ndarray]:
    named = blank(_setting(case)).module.named_parameters()
    return {name: parameter(name, tuple(p.shape)) for name, p in named}


def draws() -> dict[str, np.ndarray]:
    b, i = np.ogrid[:COUNT, :16]
    mask = (i // 4 // 2) * 2 + i % 4 // 2 != b % 4
    b, v, layer, k = np.ogrid[:COUNT, :1, :2, :2]
    return {"mask": mask, "drop": np.where(layer == 0, 1.0, np.where((b + 2 * v + k) % 5 == 0, 0.0, 1 / 0.9))}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-6)])
def test_losses_and_gradients_are_the_reference(dtype: Any, tolerance: float) -> None:
    weights = state(spec())
    assert (len(weights), sum(value.size for value in weights.values())) == (39, 28_856)
    assert sum(value.sum() for value in weights.values()) == pytest.approx(178.689964, rel=1e-8)
    result = verify(spec(), weights, images(1), draws(), dtype=dtype, gradients=list(weights))
    squares = {name: float((g.astype(np.float64) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    assert result.losses == pytest.approx((0.993792781, 1.025694953), rel=tolerance)
    assert sum(squares.values()) ** 0.5 == pytest.approx(0.795660675, rel=20 * tolerance)
    assert squares[QKV] ** 0.5 == pytest.approx(0.111018812, rel=20 * tolerance)
    assert set(squares) == set(weights), "every parameter is trained"
    assert min(squares.values()) > 0


def test_wrong_readings_of_the_head_and_of_the_table_are_told_apart() -> None:
    weights, rows = state(spec()), {"head.weight": (48, 32), "head.bias": (48,)}
    fastest = {
        name: weights[name].reshape(16, 3, -1).swapaxes(0, 1).reshape(shape) for name, shape in rows.items()
    }  # row (c, place) takes what stands at (place, c): the colour runs fastest
    transposed = weights[TABLE].copy()
    transposed[:49] = weights[TABLE][:49][::-1]  # key less query in place of query less key, patches alone
    wrong = {"colour fastest": fastest, "bias transposed": {TABLE: transposed}}
    found = {
        name: float(verify(spec(), weights | change, images(1), draws(), dtype="float64").losses[0])
        for name, change in wrong.items()
    }
    assert found == pytest.approx({"colour fastest": 1.015128, "bias transposed": 0.993580}, rel=1e-6)


def random_case(seed: int) -> tuple[dict[str, Any], np.random.Generator]:
    rng = np.random.default_rng(seed)
    heads, cell, cells, patch = int(rng.integers(1, 3)), int(rng.integers(1, 3)), int(rng.integers(2, 4)), 2
    model = {
        "width": 4 * heads * int(rng.integers(1, 3)),
        "depth": int(rng.integers(1, 4)),
        "heads": heads,
        "patch_size": patch,
        "image_size": patch * cell * min(cells, 4 // cell + 1),
        "mlp_ratio": 4,
        "drop_path": 0.1,
    }
    options = {"cell": cell, "mask_ratio": float(rng.uniform(0.1, 0.7))}
    flags = {"plain": bool(rng.integers(2)), "final_norm": bool(rng.integers(3))}
    return {**spec(model, **options, **flags), "data": {"group": 2}, "seed": seed}, rng


@pytest.mark.parametrize("seed", range(10))
def test_random_cases_are_those_of_the_oracle(seed: int) -> None:
    case, rng = random_case(seed)
    model, size = case["model"], case["model"]["image_size"]
    shapes = {name: tuple(p.shape) for name, p in blank(_setting(case)).module.named_parameters()}
    weights = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    pixels, drawn = rng.normal(size=(4, 1, 3, size, size)), draw(case, range(6, 10))
    result = verify(case, weights, pixels, {"first": 6}, dtype="float64")
    rates = 0.1 * np.arange(model["depth"])[:, None] / max(1, model["depth"] - 1)
    kept = drawn.get("drop", np.ones((4, 1, model["depth"], 2))) > 0
    made = np.stack(
        [
            reconstruction(image[0], weights, model, mask, factors[0], final_norm=case["method"]["final_norm"])
            for image, mask, factors in zip(pixels, drawn["mask"], np.where(kept, 1 / (1 - rates), 0), strict=True)
        ]
    )
    patches = to_patches(torch.tensor(made), model["patch_size"]).numpy()
    assert np.allclose(result.outputs["prediction"], patches, rtol=1e-10, atol=1e-12)
    expected = [
        group_loss(made[i : i + 2], pixels[i : i + 2, 0], drawn["mask"][i : i + 2], model["patch_size"]) for i in (0, 2)
    ]
    assert result.losses == pytest.approx(expected, rel=1e-11)


def test_masks_are_whole_cells_of_a_constant_number() -> None:
    counts = {(14, 0.6): 30, (12, 0.6): 22, (8, 0.6): 10, (14, 0.75): 37}
    for (grid, ratio), cells in counts.items():
        assert masked_cell_count(SimmimOptions(name="simmim", mask_ratio=ratio), grid) == cells
    masks = masked_cells(7, torch.arange(1000), grid=14, cell=2, count=30)
    assert set(masks.sum(1).tolist()) == {120}
    squares = masks.view(-1, 7, 2, 7, 2).permute(0, 1, 3, 2, 4).flatten(3)
    assert (squares.all(3) | ~squares.any(3)).all()
    shares = squares[..., 0].double().mean(0)
    assert (shares - 30 / 49).abs().max() < 4.5 * (30 / 49 * 19 / 49 / 1000) ** 0.5


def test_cells_are_masked_in_the_reference_order() -> None:
    numbers, first = (
        torch.tensor([0, 1, FAR]),
        [[11, 42, 17, 31, 43, 25], [30, 3, 41, 5, 27, 46], [21, 24, 10, 34, 28, 27]],
    )
    masks = masked_cells(7, numbers, grid=14, cell=2, count=6).view(3, 7, 2, 7, 2)[:, :, 0, :, 0].flatten(1)
    assert [row.nonzero().flatten().tolist() for row in masks] == [sorted(cells) for cells in first]
    model = {**MODEL, "image_size": 224, "patch_size": 16}
    assert np.array_equal(draw(spec(model), [0, 1], names=["mask"])["mask"].sum(1), [120, 120])


def test_pixels_under_the_mask_are_a_target_and_no_input() -> None:
    weights, pixels, given = state(spec()), images(1), draws()
    hidden = given["mask"].reshape(-1, 1, 1, 4, 4).repeat(PATCH, 3).repeat(PATCH, 4)
    other = np.where(hidden, -pixels, pixels)
    first, second = (verify(spec(), weights, some, given, dtype="float64") for some in (pixels, other))
    assert np.array_equal(first.outputs["prediction"], second.outputs["prediction"])
    assert (np.abs(first.losses - second.losses) > 1e-3).all()
    changed = pixels.copy()
    changed[0] += 1
    third = verify(spec(), weights, changed, given, dtype="float64")
    assert np.array_equal(first.outputs["prediction"][1:], third.outputs["prediction"][1:])
    assert first.losses[1] == third.losses[1]


def test_a_constant_image_and_a_blank_head_give_its_value() -> None:
    weights = state(spec()) | {"head.weight": np.zeros((48, 32)), "head.bias": np.zeros(48)}
    result = verify(spec(), weights, np.full((COUNT, 1, 3, 16, 16), 0.7), draws(), dtype="float64")
    pixels = draws()["mask"][:GROUP].sum() * PATCH**2
    assert result.losses == pytest.approx([0.7 * pixels / (pixels + 1e-5)] * 2, rel=1e-14)


def test_a_blank_table_makes_all_masked_patches_of_an_image_one() -> None:
    weights = state(spec())
    weights[TABLE] = np.zeros_like(weights[TABLE])
    result = verify(spec(), weights, images(1), {"mask": draws()["mask"]}, dtype="float64")
    for patches, mask in zip(result.outputs["prediction"], draws()["mask"], strict=True):
        assert np.allclose(patches[mask], patches[mask][0], rtol=0, atol=1e-13)


def test_the_first_value_of_a_patch_in_a_colour_is_where_a_pixel_shuffle_puts_it() -> None:
    patches = torch.zeros(1, 16, 48)
    patches[0, 0, 1 * 16 + 2 * 4 + 3] = 1
    shuffled = torch.pixel_shuffle(patches.transpose(1, 2).view(1, 48, 4, 4), 4)
    assert torch.equal(to_patches(shuffled, 4), patches)
    assert shuffled[0, 1, 2, 3] == 1


def test_masks_of_other_counts_are_refused() -> None:
    uneven = draws()["mask"].copy()
    uneven[0, 0] = ~uneven[0, 0]
    for mask in (uneven, np.zeros((COUNT, 16), bool)):
        with pytest.raises(reference.SpecError, match="same number masked"):
            verify(spec(), state(spec()), images(1), {"mask": mask})
