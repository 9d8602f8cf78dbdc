"""RelViT: reference losses, gradients and draws computed apart from this code, and random cases of an oracle."""

from typing import Any

import numpy as np
import pytest

from gmml_cluster.methods import reference
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.reference import _setting
from tests.golden.relvit_oracle import image_loss
from tests.golden.test_methods import COUNT, GROUP, MODEL, QKV, images, state

ALONE = {"relations": False, "positions": False}
METHODS: dict[str, dict[str, Any]] = {
    "both": {"relation_width": 3},
    "relations": {"relation_width": 3, "positions": False},
    "positions": {"relations": False},
    "distances": {**ALONE, "distances": True},
    "angles": {**ALONE, "angles": True},
}
LOSSES = {
    "both": 5.963667779,
    "relations": 2.596305035,
    "positions": 3.367362745,
    "distances": 1.122139537,
    "angles": 1.205064953,
}
ORDERS = np.stack([np.random.default_rng(seed).permutation(16) for seed in range(COUNT)])


def spec(**options: Any) -> dict[str, Any]:
    return {"model": MODEL, "method": {"name": "relvit", **options}, "data": {"group": GROUP}, "seed": 0}


def drop() -> np.ndarray:
    b, v, layer, k = np.ogrid[:COUNT, :1, :2, :2]
    return np.where(layer == 0, 1.0, np.where((b + 2 * v + k) % 5 == 0, 0.0, 1 / 0.9))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-6)])
def test_losses_and_gradients_are_the_reference(dtype: Any, tolerance: float) -> None:
    case = spec(**METHODS["both"])
    weights = state(case)
    assert (len(weights), sum(value.size for value in weights.values())) == (33, 29_328)
    assert sum(value.sum() for value in weights.values()) == pytest.approx(115.743768, rel=1e-8)
    result = reference.verify(case, weights, images(1), {"drop": drop()}, dtype=dtype, gradients=list(weights))
    squares = {name: float((g.astype(np.float64) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    assert result.losses == pytest.approx((5.963667779, 6.006957917), rel=tolerance)
    assert sum(squares.values()) ** 0.5 == pytest.approx(2.346820191, rel=20 * tolerance)
    assert squares[QKV] ** 0.5 == pytest.approx(0.483988241, rel=20 * tolerance)
    assert set(squares) == set(weights), "every parameter is trained"


@pytest.mark.parametrize("task", LOSSES)
def test_each_task_apart_is_the_reference(task: str) -> None:
    case = spec(**METHODS[task])
    result = reference.verify(case, state(case), images(1), {"drop": drop()}, dtype="float64")
    assert result.losses[0] == pytest.approx(LOSSES[task], rel=1e-9)


@pytest.mark.parametrize("task", LOSSES)
def test_permuting_patches_with_their_labels_changes_nothing_without_position_embeddings(task: str) -> None:
    for embeddings in (False, True):
        case = spec(**METHODS[task], position_embeddings=embeddings)
        weights = state(case)
        plain, permuted = (
            reference.verify(case, weights, images(1), {"drop": drop(), **given}, dtype="float64").losses
            for given in ({}, {"order": ORDERS})
        )
        assert np.allclose(plain, permuted, rtol=1e-12, atol=0) != embeddings


def test_wrong_readings_of_the_relations_are_told_apart() -> None:
    """The transposed pair, a ninth of the rows for each class in the other order, and no scaling."""
    case = spec(**METHODS["relations"])
    weights = state(case)
    right = reference.verify(case, weights, images(1), {"drop": drop()}, dtype="float64").losses[0]
    q, k = "relations.query.weight", "relations.key.weight"
    interleaved = {name: weights[name].reshape(3, 9, 32).swapaxes(0, 1).reshape(27, 32) for name in (q, k)}
    wrong = ({q: weights[k], k: weights[q]}, interleaved, {q: weights[q] * 3**0.5})
    for change in wrong:
        found = reference.verify(case, weights | change, images(1), {"drop": drop()}, dtype="float64").losses[0]
        assert abs(found - right) > 1e-3


def random_case(seed: int) -> tuple[dict[str, Any], np.random.Generator]:
    rng = np.random.default_rng(seed)
    heads, grid, patch, group = int(rng.integers(1, 4)), int(rng.integers(2, 5)), int(rng.integers(2, 5)), 2
    model = {
        "width": 4 * heads * int(rng.integers(1, 4)),
        "depth": int(rng.integers(1, 4)),
        "heads": heads,
        "patch_size": patch,
        "image_size": patch * grid,
        "mlp_ratio": 4,
        "drop_path": 0.1,
    }
    tasks = {task: bool(rng.integers(2)) for task in ("relations", "positions", "distances", "angles")}
    tasks |= {"relations": True} if not any(tasks.values()) else {}
    flags = {name: bool(rng.integers(2)) for name in ("position_embeddings", "permute", "add_class_token")}
    width = {"relation_width": int(rng.integers(1, 5)) if model["width"] < 9 or rng.integers(2) else None}
    method = {"name": "relvit", **tasks, **flags, **width}
    return {"model": model, "method": method, "data": {"group": group}, "seed": seed}, rng


@pytest.mark.parametrize("seed", range(12))
def test_random_cases_are_those_of_the_oracle(seed: int) -> None:
    case, rng = random_case(seed)
    model, size = case["model"], case["model"]["image_size"]
    shapes = {name: tuple(p.shape) for name, p in blank(_setting(case)).module.named_parameters()}
    weights = {name: rng.normal(0, 0.4, shape) for name, shape in shapes.items()}
    pixels = rng.normal(size=(4, 1, 3, size, size))
    drawn = reference.draw(case, range(6, 10))
    result = reference.verify(case, weights, pixels, {"first": 6}, dtype="float64")
    orders = drawn.get("order", np.tile(np.arange((size // model["patch_size"]) ** 2), (4, 1)))
    rates = 0.1 * np.arange(model["depth"])[:, None] / max(1, model["depth"] - 1)
    kept = drawn.get("drop", np.ones((4, 1, model["depth"], 2))) > 0
    multipliers = np.where(kept, 1 / (1 - rates), 0)
    found = [
        image_loss(image[0], weights, model, case["method"], scale[0], order)
        for image, scale, order in zip(pixels, multipliers, orders, strict=True)
    ]
    for task in found[0]:
        sums = result.scalars[f"loss_{task}"]
        assert sums[:, 0] / sums[:, 1] == pytest.approx(
            [np.mean([found[2 * g + k][task] for k in range(2)]) for g in range(2)], rel=1e-10
        )
    expected = [np.mean([sum(found[2 * g + k].values()) for k in range(2)]) for g in range(2)]
    assert result.losses == pytest.approx(expected, rel=1e-10)


def test_orders_of_patches_are_uniform_and_drawn_by_number() -> None:
    case = {**spec(permute=True), "seed": 7}
    drawn = reference.draw(case, range(4000), names=["order"])["order"]
    assert (np.sort(drawn, 1) == np.arange(16)).all()
    counts = np.stack([np.bincount(drawn[:, place], minlength=16) for place in range(16)])
    assert np.abs(counts - 250).max() < 5 * (250 * 15 / 16) ** 0.5
    assert (reference.draw(case, [17], names=["order"])["order"] == drawn[17]).all()
