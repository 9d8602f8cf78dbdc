"""ConMIM: reference losses and gradients computed apart from this code, and the wrong readings that they tell apart."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import draw, verify
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.conmim import GroupNorm
from gmml_cluster.methods.init import initial_weights
from gmml_cluster.methods.reference import _setting
from tests.golden.conmim_oracle import WRONG, group_results
from tests.golden.test_methods import COUNT, GROUP, MODEL, QKV, images
from tests.golden.test_simmim import parameter

STILL = {**MODEL, "drop_path": 0}


def spec(group: int = GROUP, model: dict[str, Any] = STILL, **options: Any) -> dict[str, Any]:
    method = {"name": "conmim", "projector": [64, 64, 32], **options}
    return {"model": model, "method": method, "data": {"group": group}, "seed": 7}


def state() -> dict[str, np.ndarray]:
    return {name: parameter(name, tuple(p.shape)) for name, p in blank(_setting(spec())).module.named_parameters()}


def ragged() -> np.ndarray:
    b, i = np.ogrid[:COUNT, :16]
    return np.asarray((7 * i + 3 * b) % 16 < 6 + b % 5)


def cells() -> np.ndarray:
    b, i = np.ogrid[:COUNT, :16]
    return np.asarray((i // 4 // 2) * 2 + i % 4 // 2 != b % 4)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 5e-6)])
@pytest.mark.parametrize(
    ("mask", "losses", "gradient", "qkv"),
    [
        (ragged(), (3.758228187, 3.836891827), 12.809672901, 2.682643529),
        (cells(), (3.982427095, 3.555964336), 10.319153047, 1.608931069),
    ],
)
def test_losses_and_gradients_are_the_reference(
    mask: np.ndarray, losses: tuple[float, float], gradient: float, qkv: float, dtype: Any, tolerance: float
) -> None:
    weights = state()
    assert (len(weights), sum(value.size for value in weights.values())) == (88, 71_440)
    assert sum(value.sum() for value in weights.values()) == pytest.approx(683.281088, rel=1e-8)
    assert not [name for name in weights if name.endswith("attn.qkv.bias") or "k_bias" in name]
    result = verify(spec(), weights, images(2), {"mask": mask}, dtype=dtype, gradients=list(weights))
    squares = {name: float((g.astype(np.float64) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    assert result.losses == pytest.approx(losses, rel=tolerance)
    assert sum(squares.values()) ** 0.5 == pytest.approx(gradient, rel=20 * tolerance)
    assert squares[QKV] ** 0.5 == pytest.approx(qkv, rel=20 * tolerance)
    assert set(squares) == {name for name in weights if not name.startswith("teacher.")}
    still = [name for name, square in squares.items() if square < 1e-8 * gradient**2]
    assert still == ["encoder.norm.bias"], "the batch norm takes a constant away"


@pytest.mark.parametrize("name", WRONG)
def test_the_method_reads_the_description_in_none_of_the_wrong_ways(name: str) -> None:
    """Unbiased variances are hardest to tell: 6e-5 at the 68 rows of a group."""
    weights, pixels, given = state(), images(2), {"mask": ragged()}
    reading, loss = WRONG[name]
    wrong = group_results(pixels, ragged(), weights, STILL, group=GROUP, temperature=0.1, reading=reading)[0].loss
    assert wrong == pytest.approx(loss, abs=6e-7)
    right = verify(spec(), weights, pixels, given, dtype="float64").losses[0]
    assert abs(right - wrong) > 5e-5
    assert right == pytest.approx(3.758228187, abs=6e-10)


def random_case(seed: int) -> tuple[dict[str, Any], np.random.Generator]:
    rng = np.random.default_rng(seed)
    heads, cell, patch = int(rng.integers(1, 3)), int(rng.integers(1, 3)), 2
    model = {
        "width": 4 * heads * int(rng.integers(1, 3)),
        "depth": int(rng.integers(1, 4)),
        "heads": heads,
        "patch_size": patch,
        "image_size": patch * cell * int(rng.integers(2, 4 if cell == 1 else 3)),
        "mlp_ratio": 4,
        "drop_path": 0,
    }
    masks = "blocks" if seed % 3 == 0 else "cells"
    options = {"masks": masks, "cell": cell, "mask_ratio": float(rng.uniform(0.3, 0.7))}
    options |= {"temperature": float(rng.uniform(0.05, 1)), "projector": rng.integers(6, 14, 3).tolist()}
    group = int(rng.integers(2, 4))
    return {**spec(group, model, **options), "seed": seed}, rng


@pytest.mark.parametrize("seed", range(10))
def test_random_cases_are_those_of_the_oracle(seed: int) -> None:
    case, rng = random_case(seed)
    model, group, size = case["model"], case["data"]["group"], case["model"]["image_size"]
    shapes = {name: tuple(p.shape) for name, p in blank(_setting(case)).module.named_parameters()}
    weights = {name: rng.normal(0, 0.6, shape) for name, shape in shapes.items()}
    pixels, masks = rng.normal(size=(2 * group, 2, 3, size, size)), draw(case, range(6, 6 + 2 * group))["mask"]
    trained = [name for name in shapes if not name.startswith("teacher.")]
    result = verify(case, weights, pixels, {"mask": masks}, dtype="float64", gradients=trained)

    def found(weights: dict[str, np.ndarray]) -> list[Any]:
        temperature = case["method"]["temperature"]
        return group_results(pixels, masks, weights, model, group=group, temperature=temperature)

    expected = found(weights)
    assert result.losses == pytest.approx([one.loss for one in expected], rel=1e-10)
    for name in ("positive", "negative", "top1"):
        sums = [(sum(getattr(one, name)), len(getattr(one, name))) for one in expected]
        assert result.scalars[name] == pytest.approx(np.array(sums), rel=1e-9, abs=1e-9)
    assert result.scalars["key_std"][:, 0] == pytest.approx([one.key_std for one in expected], rel=1e-9)
    step = {name: rng.normal(0, 1, shapes[name]) for name in trained}
    ahead, behind = (
        np.mean([one.loss for one in found(weights | {name: weights[name] + h * step[name] for name in trained})])
        for h in (1e-6, -1e-6)
    )
    slope = sum(float((result.gradients[name] * step[name]).sum()) for name in trained)  # type: ignore[operator]
    assert (ahead - behind) / 2e-6 == pytest.approx(slope, rel=1e-4, abs=1e-5)


def test_a_group_is_coupled_and_no_more() -> None:
    weights, pixels, given = state(), images(2), {"mask": ragged()}
    changed = pixels.copy()
    changed[0, 1] += 1 + np.arange(16)
    first, second = (verify(spec(), weights, some, given, dtype="float64") for some in (pixels, changed))
    assert (first.outputs["prediction"][1:4] != second.outputs["prediction"][1:4]).any()
    assert np.array_equal(first.outputs["prediction"][4:], second.outputs["prediction"][4:])
    assert first.losses[1] == second.losses[1]


def test_group_norm_is_torchs_batch_norm_in_training() -> None:
    rows = torch.randn(2, 9, 5, generator=torch.Generator().manual_seed(0))
    ours = GroupNorm(5)(rows)
    theirs = torch.stack([torch.nn.BatchNorm1d(5)(group) for group in rows])
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_the_teacher_begins_as_the_student_and_follows_it_by_a_cosine() -> None:
    method: Any = blank(_setting(spec()))
    weights = initial_weights(method, 7)
    update = method.after_step(0, 100)
    assert len(update.sources) == len(weights) / 2 == 44
    assert all(torch.equal(weights[t], weights[s]) for t, s in zip(update.targets, update.sources, strict=True))
    assert not any(p.requires_grad for name, p in method.module.named_parameters() if name.startswith("teacher."))
    assert [1 - method.after_step(step, 100).weight for step in (0, 50, 100)] == pytest.approx([0.996, 0.998, 1])


@pytest.mark.parametrize(
    ("size", "parameters"), [((384, 12, 6), 41_014_440), ((768, 12, 12), 106_654_032), ((1024, 24, 16), 325_173_696)]
)
def test_parameters_of_the_released_sizes(size: tuple[int, int, int], parameters: int) -> None:
    width, depth, heads = size
    model = {"width": width, "depth": depth, "heads": heads, "patch_size": 16, "image_size": 224}
    setting = _setting(
        {"model": {**model, "drop_path": 0}, "method": {"name": "conmim"}, "data": {"group": 8}, "seed": 7}
    )
    counts = setting.options.counts(setting.model, 224)  # type: ignore[attr-defined]
    assert (counts.trained, counts.frozen) == (parameters, parameters)
    with torch.device("meta"):
        assert sum(p.numel() for p in blank(setting).module.parameters()) == 2 * parameters


def test_masks_are_of_whole_cells_or_of_blocks() -> None:
    model = {**STILL, "image_size": 224, "patch_size": 16}
    masks = draw(spec(model=model), range(1000), names=["mask"])["mask"]
    assert set(masks.sum(1)) == {148}
    blocks = draw(spec(model=model, masks="blocks"), range(200), names=["mask"])["mask"].sum(1)
    assert blocks.max() <= 147
    assert blocks.mean() == pytest.approx(146.3, abs=0.5)


def test_a_mask_that_hides_nothing_of_a_group_is_refused() -> None:
    with pytest.raises(SpecError, match="masks nothing of a group"):
        verify(spec(), state(), images(2), {"mask": np.zeros((COUNT, 16), bool)})
