"""I-JEPA against reference cases computed apart from this code, and against an oracle in numpy."""

import zlib
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.methods import reference
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.reference import _setting
from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.schedule import learning_rate, weight_decay
from tests.golden import ijepa_oracle
from tests.golden.test_methods import FAR, MODEL, QKV, images, parameter, state

SPEC: dict[str, Any] = {
    "model": {**MODEL, "drop_path": 0},
    "method": {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1, "predictor_heads": 2, "targets": 2},
    "data": {"group": 4},
    "seed": 0,
}
CUT = {"masks": "padded", "min_keep": 0, "cut": "group"}
LOSSES = (0.632034539, 0.671755494)


def spec(**options: Any) -> dict[str, Any]:
    return {**SPEC, "method": {**SPEC["method"], **options}}


def contexts(target: np.ndarray, grid: int) -> np.ndarray:
    """All patches but the targets'."""
    seen = np.ones((len(target), grid * grid), bool)
    for image, rectangles in enumerate(target):
        for rectangle in rectangles:
            seen[image, ijepa_oracle.cells_of(rectangle, grid)] = False
    return seen


def draws() -> dict[str, np.ndarray]:
    corners = [[((b + m * (b // 3)) % 3, (2 * b + m * (b // 2)) % 3, 2, 2) for m in range(2)] for b in range(8)]
    target = np.array(corners)
    return {"target": target, "context": contexts(target, 4)}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 2e-9), ("float32", 2e-5)])
def test_losses_and_gradients_are_the_reference(dtype: Any, tolerance: float) -> None:
    weights = state(SPEC)
    result = reference.verify(SPEC, weights, images(1), draws(), dtype=dtype, gradients=list(weights))
    norms = {
        name: np.linalg.norm(gradient.astype(np.float64))
        for name, gradient in result.gradients.items()
        if gradient is not None
    }
    assert draws()["context"].sum(1).tolist() == [12, 12, 10, 9, 9, 8, 8, 10]
    assert result.losses == pytest.approx(LOSSES, rel=tolerance)
    assert np.linalg.norm(list(norms.values())) == pytest.approx(1.088558397, rel=tolerance)
    assert norms[QKV] == pytest.approx(0.118528115, rel=max(tolerance, 1e-8))
    assert norms["predictor.mask_token"] == pytest.approx(0.219647946, rel=max(tolerance, 1e-8))
    assert set(norms) == {name for name in weights if not name.startswith("teacher.")}, "only the teacher has none"


def test_the_state_is_the_reference() -> None:
    weights = state(SPEC)
    assert (len(weights), sum(value.size for value in weights.values())) == (75, 58_480)
    assert sum(value.sum() for value in weights.values()) == pytest.approx(364.378818, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (CUT, (0.654289442, 0.683116148)),
        ({**CUT, "cut": "none"}, LOSSES),
        ({"norm_target": False}, (0.630320, None)),
        ({"loss": "l2"}, (2 * 0.838368, None)),
    ],
    ids=str,
)
def test_options_give_the_values_that_the_specification_names(
    options: dict[str, Any], expected: tuple[float | None, ...]
) -> None:
    losses = reference.verify(spec(**options), state(SPEC), images(1), draws(), dtype="float64").losses
    for loss, value in zip(losses, expected, strict=True):
        assert value is None or loss == pytest.approx(value, abs=1e-6)


WRONG = {
    "eps": 0.632037,
    "one sequence": 0.671567,
    "row first": 0.613079,
    "encoder as teacher": 0.630386,
    "context keeps targets": 0.628245,
    "overlaps once": 0.628923,
}


def test_the_loss_differs_from_its_wrong_readings() -> None:
    weights, pixels = state(SPEC), images(1)
    found = {wrong: ijepa_oracle.losses(SPEC, weights, pixels, draws(), wrong)[0] for wrong in WRONG}
    assert found == pytest.approx(WRONG, abs=1e-6), "the readings are those the specification names"
    loss = reference.verify(SPEC, weights, pixels, draws(), dtype="float64").losses[0]
    assert min(abs(loss - value) for value in found.values()) > 1e-6


def test_tokens_that_fill_a_sequence_must_not_be_attended_to() -> None:
    method = blank(_setting(SPEC))
    method.module.load_state_dict({name: torch.tensor(value) for name, value in state(SPEC).items()}, assign=True)
    given = method.accept({name: torch.tensor(value) for name, value in draws().items()}, 8)  # type: ignore[attr-defined]
    seen = {name: value for name, value in given.items() if not name.endswith("_real")}
    with torch.no_grad():
        masked, unmasked = (method.loss(method.module, torch.tensor(images(1)), some).groups for some in (given, seen))
    assert masked.tolist() == pytest.approx(LOSSES, rel=2e-9)
    assert float((masked - unmasked).abs().min()) > 0.005


def random_case(seed: int) -> tuple[dict[str, Any], dict[str, np.ndarray], np.ndarray, dict[str, np.ndarray]]:
    """A specification with weights, images and draws, all of them random."""
    choose = np.random.default_rng(seed)
    grid, side, group, heads = (int(choose.choice(some)) for some in ([3, 4, 5], [2, 3], [1, 2, 3], [1, 2]))
    model = {"width": 8 * heads, "depth": int(choose.integers(1, 3)), "heads": heads, "patch_size": side}
    options = {
        "predictor_width": 4 * heads,
        "predictor_depth": int(choose.integers(1, 3)),
        "targets": int(choose.integers(1, 4)),
        "loss": str(choose.choice(["smooth_l1", "l2"])),
        "norm_target": bool(choose.integers(2)),
    }
    if choose.integers(2):
        options |= {"masks": "padded", "min_keep": 0, "cut": str(choose.choice(["none", "group"]))}
        options["target_scale"] = [0.3, 0.4]
    case = {
        "model": {**model, "image_size": grid * side, "drop_path": 0},
        "method": {"name": "ijepa", **options},
        "data": {"group": group},
        "seed": seed,
    }
    shapes = {name: tuple(p.shape) for name, p in blank(_setting(case)).module.named_parameters()}
    weights = {name: parameter(name, shape) + choose.normal(0, 0.1, shape) for name, shape in shapes.items()}
    count = 2 * group
    start = choose.integers(0, grid, (count, options["targets"], 2))
    target = np.concatenate([start, 1 + choose.integers(0, 100, start.shape) % (grid - start)], 2)
    context = choose.random((count, grid**2)) < 0.5
    context[:, 0] |= ~context.any(1)
    pixels = choose.normal(size=(count, 1, 3, grid * side, grid * side))
    return case, weights, pixels, {"target": target, "context": context}


@pytest.mark.parametrize("seed", range(12))
def test_losses_of_random_cases_are_the_oracles(seed: int) -> None:
    case, weights, pixels, given = random_case(seed)
    result = reference.verify(case, weights, pixels, given, dtype="float64")
    assert result.losses == pytest.approx(ijepa_oracle.losses(case, weights, pixels, given), rel=1e-10)


PADDED = {
    14: [
        (0, 87, [(1, 3), (4, 3), (5, 4), (2, 0)], 578073673),
        (1, 65, [(0, 5), (5, 0), (3, 6), (5, 7)], 789342323),
        (FAR, 83, [(4, 7), (1, 5), (2, 3), (6, 6)], 2002576466),
    ],
    8: [(0, 21, [(0, 1), (2, 1), (3, 2), (1, 0)], 2610294570)],
}


def mask_spec(grid: int, group: int = 8, **options: Any) -> dict[str, Any]:
    model = {**MODEL, "drop_path": 0, "image_size": 4 * grid}
    return {"model": model, "method": {"name": "ijepa", **options}, "data": {"group": group}, "seed": 7}


@pytest.mark.parametrize(("grid", "min_keep", "size"), [(14, 10, (7, 5)), (8, 4, (4, 3))])
def test_padded_masks_are_the_reference(grid: int, min_keep: int, size: tuple[int, int]) -> None:
    numbers = [number for number, *_ in PADDED[grid]]
    drawn = reference.draw(mask_spec(grid, masks="padded", min_keep=min_keep, predictor_heads=2), numbers)
    for index, (_, count, corners, crc) in enumerate(PADDED[grid]):
        assert drawn["target"][index].tolist() == [[*corner, *size] for corner in corners]
        assert drawn["context"][index].sum() == count
        assert zlib.crc32(np.packbits(drawn["context"][index]).tobytes()) == crc


PARAMETERS = {
    "small": (21_589_632, 10_943_616),
    "base": (85_646_592, 11_238_912),
    "large": (303_098_880, 22_082_560),
    "huge": (630_434_560, 22_279_424),
}


@pytest.mark.parametrize("size", PARAMETERS)
def test_parameters_are_as_many_as_the_table_says(size: str) -> None:
    setting = _setting({"model": {"size": size, "image_size": 224}, "method": {"name": "ijepa"}})
    module, counts = blank(setting).module, setting.options.counts(setting.model, 224)
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in module.named_children()}
    buffers = sum(buffer.numel() for buffer in module.buffers())
    encoder, predictor = PARAMETERS[size]
    assert parts == {"encoder": encoder, "predictor": predictor, "teacher": encoder}
    assert (counts.trained, counts.frozen) == (encoder + predictor, encoder + buffers)


RATES = {"lr": 1e-3, "lr_per": None, "schedule": {"law": "next", "start_lr": 2e-4, "warmup": "40 epochs"}}
LENGTH, WARM_UP = 187_500, 25_000


@pytest.mark.parametrize(
    ("step", "rate", "decay", "momentum"),
    [
        (0, 2.00032e-4, 0.0400000000253, 0.996),
        (24_999, 1e-3, 0.0555618176, 0.996533312),
        (93_749, 6.200381743e-4, 0.22, 0.9979999787),
        (LENGTH - 1, 1e-6, 0.4, 0.9999999787),
    ],
)
def test_schedules_are_the_reference(step: int, rate: float, decay: float, momentum: float) -> None:
    optim = Optim.model_validate(RATES)
    found = learning_rate(optim, step, batch=2048, warmup_steps=WARM_UP, total_steps=LENGTH)
    assert found == pytest.approx(rate, rel=1e-9)
    assert weight_decay(optim, step, total_steps=LENGTH) == pytest.approx(decay, rel=1e-9)
    assert 1 - blank(_setting(SPEC)).after_step(step, LENGTH).weight == pytest.approx(momentum, abs=5e-11)  # type: ignore[attr-defined]


def test_a_longer_schedule_ends_on_the_curve() -> None:
    optim, length = Optim.model_validate(RATES), LENGTH * 5 // 4
    found = learning_rate(optim, LENGTH - 1, batch=2048, warmup_steps=WARM_UP, total_steps=length)
    assert found == pytest.approx(1.195387536e-4, rel=1e-9)
    assert weight_decay(optim, LENGTH - 1, total_steps=length) == pytest.approx(0.365623059, rel=1e-8)
    update = blank(_setting(SPEC)).after_step(LENGTH - 1, length)  # type: ignore[attr-defined]
    assert 1 - update.weight == pytest.approx(0.999199983, abs=5e-10)


def test_a_prediction_of_zero_costs_what_the_target_says() -> None:
    method = blank(_setting(SPEC))
    drawn = method.draw(torch.arange(4), torch.device("cpu"))
    shape = (*drawn["target_index"].shape, 4096)
    alternating = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(2048).expand(shape)
    gaussian = torch.tensor(np.random.default_rng(0).standard_normal(shape))

    def loss(target: torch.Tensor) -> float:
        pixels = torch.zeros(4, 1, 3, 16, 16, dtype=torch.float64)
        made = (torch.zeros_like(target), target, torch.zeros(4, 8))
        return float(method.loss(lambda *_: made, pixels, drawn).groups)

    assert loss(alternating) == pytest.approx(0.499995, abs=1e-9)
    assert loss(gaussian) == pytest.approx(0.42466, abs=0.003)


def test_cut_to_their_group_contexts_lose_the_bottom_as_the_reference_says() -> None:
    """The share of images' contexts by row, at g = 14 and groups of 128, as in the released code on such GPUs."""
    case = mask_spec(14, 128, masks="padded", cut="group", predictor_heads=2)
    method: Any = blank(_setting(case))
    drawn = method.draw(torch.arange(16 * 128), torch.device("cpu"))
    seen = method._context_real(drawn)
    assert float(seen.sum(1).double().mean()) == pytest.approx(49.8, abs=4)
    rows = drawn["context_index"] // 14
    shares = [float(((rows == row) & seen).sum() / (14 * len(rows))) for row in (0, 1, 4, 8, 12, 13)]
    assert shares == pytest.approx([0.75, 0.60, 0.26, 0.18, 0.015, 0], abs=0.05)
