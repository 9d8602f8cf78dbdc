"""CAPI: the reference losses, gradients, draws and schedules, the values of wrong readings, and an oracle in numpy."""

import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.data.random.philox_torch import words
from gmml_cluster.methods import capi, reference
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.masks import inverse_block
from gmml_cluster.methods.protocol import Multiplies, Setting, Summarises
from gmml_cluster.spec.job import Optim
from gmml_cluster.spec.methods.capi import CapiOptions
from gmml_cluster.train.checkpoints.load_trained import encoder_at
from gmml_cluster.train.engines.adamw import parameter_groups
from gmml_cluster.train.engines.schedule import Schedule
from tests.golden import capi_oracle as oracle
from tests.golden.test_methods import images, stand_in
from tests.golden.test_methods import state as plain_state
from tests.unit.methods.jobs import job

MODEL = {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "image_size": 16, "mlp_ratio": 4, "drop_path": 0}
METHOD = {"name": "capi", "clusters": 8, "registers": 4, "predictor_depth": 1, "predict_ratio": 0.2}
SHAPE = {"heads": 2, "depth": 2, "predictor_depth": 1, "patch": 4, "grid": 4, "registers": 4}
QKV, KV = "encoder.blocks.1.attn.qkv.weight", "predictor.blocks.0.attn.kv.weight"
FAR = 2**33 + 7
CPU = torch.device("cpu")


def spec(group: int = 4, **options: Any) -> dict[str, Any]:
    return {"model": MODEL, "method": {**METHOD, **options}, "data": {"group": group}, "seed": 0}


def state(of: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: 1 + value if name == "head.weight_g" else value for name, value in plain_state(of).items()}


def masks() -> dict[str, Any]:
    b, i = np.ogrid[:8, :16]
    order = (7 * i + 3 * b) % 16
    return {"mask": order < 10, "predict": order < 2}


def parts(result: reference.Verification) -> tuple[list[float], list[float]]:
    both = (result.scalars[f"{name}_loss"] for name in ("clustering", "prediction"))
    return tuple((pair[:, 0] / pair[:, 1]).tolist() for pair in both)  # type: ignore[return-value]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 2e-7), ("float32", 2e-5)])
def test_losses_and_gradients_are_the_reference(dtype: Any, tolerance: float) -> None:
    weights = state(spec())
    result = reference.verify(spec(), weights, images(1), masks(), dtype=dtype, gradients=list(weights))
    clustering, prediction = parts(result)
    assert clustering == pytest.approx([2.154398, 2.058557], rel=max(tolerance, 3e-7))
    assert prediction == pytest.approx([3.050030, 2.660858], rel=max(tolerance, 3e-7))
    assert result.losses == pytest.approx(np.add(clustering, prediction), rel=1e-6)
    squares = {name: float((g.astype(float) ** 2).sum()) for name, g in result.gradients.items() if g is not None}
    norm = {name: value**0.5 for name, value in squares.items()}
    assert sum(squares.values()) ** 0.5 == pytest.approx(7.249818, rel=max(tolerance, 2e-7))
    clusters = (squares["clusters.weight"] + squares["clusters.bias"]) ** 0.5
    found = [clusters, norm[QKV], norm[KV], norm["mask_token"], norm["encoder.reg_token"]]
    assert found == pytest.approx([2.233349, 1.186438, 1.632541, 0.877134, 1.317704], rel=max(tolerance, 1e-6))
    assert {name for name in weights if name not in squares} == {n for n in weights if n.startswith("teacher.")}


def test_the_reference_state_is_that_of_the_specification() -> None:
    values = state(spec()).values()
    assert (len(values), sum(value.size for value in values)) == (50, 78_096)
    assert sum(value.sum() for value in values) == pytest.approx(380.784184, rel=1e-8)


def test_gradients_of_the_heads_keep_their_laws() -> None:
    weights = state(spec())
    names = ["clusters.bias", "head.weight_v"]
    result = reference.verify(spec(), weights, images(1), masks(), dtype="float64", gradients=names)
    assert float(result.gradients["clusters.bias"].sum()) == pytest.approx(0, abs=1e-12)
    along = (result.gradients["head.weight_v"] * weights["head.weight_v"]).sum(1)
    assert along == pytest.approx(np.zeros(8), abs=1e-7), "but for the 1e-8 that is added to lengths"


def test_the_network_differs_from_its_wrong_readings() -> None:
    halves = reference.verify(spec(rope="halves"), state(spec()), images(1), masks(), dtype="float64")
    assert parts(halves)[1][0] == pytest.approx(2.869872, rel=3e-7)
    whole = reference.verify(spec(8), state(spec()), images(1), masks(), dtype="float64")
    assert (parts(whole)[1][0], parts(whole)[0][0]) == pytest.approx((2.798041, 1.806528), rel=3e-7)
    settings = {**SHAPE, "halves": False, "group": 4, "fitted": False}
    unfitted = oracle.group_losses(images(1)[:, 0], state(spec()), masks(), settings)
    assert unfitted[1][1] == pytest.approx(2.645612, rel=3e-7), "registers not mapped onto the visible cells' box"


# ---- the losses alone ------------------------------------------------------------------------------------------------


def alone() -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray], np.ndarray]:
    """Features, predictions, weights of the heads, and the predicted cells."""
    weights = {
        "clusters.weight": np.sqrt(3 / 12) * stand_in("clusters.weight", (5, 12)),
        "clusters.bias": 0.2 * stand_in("clusters.bias", (5,)),
        "head.weight_v": 0.2 * stand_in("head.weight_v", (5, 12)),
        "head.weight_g": 1 + 0.2 * stand_in("head.weight_g", (5,)),
    }
    i, j = np.ogrid[:8, :2]
    return 1.5 * stand_in("teacher", (8, 6, 12)), 1.5 * stand_in("student", (8, 2, 12)), weights, (2 * i + 3 * j) % 6


@pytest.mark.parametrize(
    ("group", "clustering", "prediction"),
    [(8, [0.963020390], [3.492126]), (4, [1.300293695, 1.232589935], [3.145584, 4.282164])],
)
def test_losses_of_given_features_are_the_reference(
    group: int, clustering: list[float], prediction: list[float]
) -> None:
    features, predictions, weights, query = alone()
    heads = capi.ClusterHead(12, 5).double(), capi.PredictionHead(12, 5).double()
    for prefix, head in zip(("clusters.", "head."), heads, strict=True):
        own = {name.removeprefix(prefix): torch.tensor(v) for name, v in weights.items() if name.startswith(prefix)}
        head.load_state_dict(own)
    with torch.no_grad():
        logits, predicted = heads[0](torch.tensor(features)), heads[1](torch.tensor(predictions))
        target = capi.targets(logits, group)
        chosen = target.gather(1, torch.tensor(query)[:, :, None].expand(-1, -1, 5))
        losses = capi.cross_entropy(logits, target), capi.cross_entropy(predicted, chosen)
    assert losses[0].view(-1, group * 6).mean(1).tolist() == pytest.approx(clustering, rel=1e-8)
    assert losses[1].view(-1, group * 2).mean(1).tolist() == pytest.approx(prediction, rel=3e-7)
    if group == 8:
        assert float(torch.special.entr(target).sum(2).mean()) == pytest.approx(0.624365068, rel=1e-8)
        expected = [0.007782252, 0.240532543, 0.024663141, 0.726397653, 0.000624395]
        assert target[0, 0].tolist() == pytest.approx(expected, abs=1e-9)


def rows_first(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits / 0.06 - (logits / 0.06).max(0) + 50)
    for _ in range(3):
        e = e / (e.sum(1, keepdims=True) + 1e-8)
        e = e / (e.sum(0) + 1e-8)
    return e


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits / 0.06)
    return e / e.sum(-1, keepdims=True)


WRONG: dict[str, tuple[Callable[[np.ndarray], np.ndarray], float, float]] = {
    "positions pooled": (lambda x: oracle.sinkhorn(x.reshape(-1, 5)).reshape(8, 6, 5), 0.994414, 3.436262),
    "over positions": (lambda x: np.stack([oracle.sinkhorn(image) for image in x]), 1.260013, 3.978593),
    "rows first": (lambda x: np.stack([rows_first(x[:, n]) for n in range(6)], 1), 0.594202, 2.418546),
    "plain softmax": (softmax, 0.552483, 3.541966),
}


@pytest.mark.parametrize("reading", WRONG)
def test_targets_differ_from_their_wrong_readings(reading: str) -> None:
    make, clustering, prediction = WRONG[reading]
    features, predictions, weights, query = alone()
    logits = oracle.cluster_logits(features, weights)
    target = make(logits)
    chosen = np.take_along_axis(target, query[:, :, None], 1)
    predicted = oracle.cross_entropy(oracle.prediction_logits(predictions, weights), chosen).mean()
    assert oracle.cross_entropy(logits, target).mean() == pytest.approx(clustering, abs=1e-6)
    assert predicted == pytest.approx(prediction, abs=1e-6)
    right = capi.targets(torch.tensor(logits), 8).numpy()
    assert np.abs(right - target).max() > 0.01


def test_targets_follow_the_images_and_nothing_else() -> None:
    logits = torch.tensor(stand_in("logits", (8, 3, 5)))
    order = torch.tensor([3, 0, 2, 1])
    moved = logits.clone()
    moved[:4] = logits[order]
    target = capi.targets(logits, 4)
    torch.testing.assert_close(capi.targets(moved, 4)[:4], target[order])
    torch.testing.assert_close(capi.targets(moved, 4)[4:], target[4:], rtol=0, atol=0)
    torch.testing.assert_close(capi.targets(logits + torch.linspace(-1, 1, 5), 4), target)
    same = logits[:1].expand(4, -1, -1)
    torch.testing.assert_close(capi.targets(same, 4), torch.full((4, 3, 5), 0.2, dtype=torch.float64))
    torch.testing.assert_close(target.sum(2), torch.ones(8, 3, dtype=torch.float64), rtol=0, atol=1e-5)


def test_targets_stay_finite_where_exponentials_would_not() -> None:
    logits = 100 * torch.tensor(stand_in("far", (8, 2, 4)), dtype=torch.float32)
    target = capi.targets(logits, 8)
    assert bool(target.isfinite().all())
    assert 0 <= float(target.min()) <= float(target.sum(2).max()) <= 1 + 1e-6


# ---- the oracle over random configurations ---------------------------------------------------------------------------


def random_case(seed: int) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any], np.ndarray]:
    """A job, the oracle's settings, draws and images."""
    r = np.random.default_rng(seed)
    heads, grid, group = int(r.integers(1, 4)), int(r.integers(2, 5)), int(r.integers(2, 5))
    model = {"width": heads * int(r.choice([8, 12])), "depth": int(r.integers(1, 3)), "heads": heads, "patch_size": 2}
    halves = bool(r.integers(2))
    options = {
        "clusters": int(r.integers(2, 9)),
        "registers": int(r.choice([4, 8])),
        "predictor_depth": int(r.integers(1, 3)),
        "rope": "halves" if halves else "coupled",
    }
    rate = 0.2 * int(r.integers(2))
    model |= {"image_size": 2 * grid, "mlp_ratio": float(r.choice([2, 4])), "drop_path": rate}
    job = {"model": model, "method": {"name": "capi", **options}, "data": {"group": group}, "seed": seed}
    count, masked = 2 * group, int(r.integers(1, grid**2))
    order = np.argsort(r.random((count, grid**2)), 1)
    rank = np.argsort(order, 1)
    draws = {"mask": rank < masked, "predict": rank < int(r.integers(1, masked + 1))}
    if rate:
        blocks = model["depth"] + options["predictor_depth"]
        draws["drop"] = (r.random((count, 1, blocks, 2)) > 0.4) / 0.8
    common = {name: model[name] for name in ("heads", "depth")} | {"patch": 2, "grid": grid, "group": group}
    settings = {**common, **{name: options[name] for name in ("registers", "predictor_depth")}, "halves": halves}
    return job, settings, draws, r.standard_normal((count, 1, 3, 2 * grid, 2 * grid))


@pytest.mark.parametrize("seed", range(8))
def test_losses_are_the_oracles(seed: int) -> None:
    job, settings, draws, pixels = random_case(seed)
    r = np.random.default_rng(seed + 100)
    weights = {name: r.standard_normal(value.shape) * 0.5 for name, value in plain_state(job).items()}
    result = reference.verify(job, weights, pixels, draws, dtype="float64")
    clustering, prediction = oracle.group_losses(pixels[:, 0], weights, draws, settings)
    assert parts(result)[0] == pytest.approx(clustering, rel=1e-6)
    assert parts(result)[1] == pytest.approx(prediction, rel=1e-6)


@pytest.mark.parametrize("rope", ["coupled", "halves"])
def test_the_feature_of_whole_images_is_the_oracles(rope: str) -> None:
    asked = job({**METHOD, "predictor_depth": 2, "rope": rope}, model={"width": 32, "depth": 2})
    method, setting = build(asked), Setting.of(asked)
    module, r = method.module.double(), np.random.default_rng(5)
    weights = {name: r.standard_normal(value.shape) * 0.5 for name, value in module.state_dict().items()}
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    teacher = {name.removeprefix("teacher."): value for name, value in weights.items() if name.startswith("teacher.")}
    pixels, ones = images(1)[:3, 0].astype(float), np.ones((2, 2))
    assert isinstance(method, Summarises)
    for size in (16, 24):  # the run's, and another
        own = encoder_at(setting, module.get_submodule("teacher.encoder"), size)  # type: ignore[arg-type]
        settings = {**SHAPE, "grid": size // 4, "halves": rope == "halves", "prefix": ""}  # one block of the two
        everything, expected = np.arange((size // 4) ** 2), []
        seen = np.tile(pixels, (1, 1, 2, 2))[..., :size, :size]
        for image in seen:
            memory, at = oracle.encode(image, teacher, everything, ones, settings)
            expected.append(oracle.predict(memory, at, teacher, everything, ones, settings).mean(0))
        found = method.summary(torch.from_numpy(np.ascontiguousarray(seen)), own).detach().numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# ---- draws -----------------------------------------------------------------------------------------------------------

BLOCKS = {
    (16, 0.05, 0): ((8, 12), 2952168230, [71, 137, 97, 154, 83, 78, 189, 34]),
    (16, 0.05, 1): ((12, 8), 1402643153, [33, 78, 147, 254, 97, 146, 145, 185]),
    (16, 0.05, FAR): ((11, 9), 3758849123, None),
    (8, 0.2, 0): ((4, 6), 1800226755, [40, 47, 19, 43, 36, 57, 42, 39]),
}


@pytest.mark.parametrize(("grid", "ratio", "number"), BLOCKS)
def test_blocks_are_the_reference(grid: int, ratio: float, number: int) -> None:
    shape, crc, predicted = BLOCKS[grid, ratio, number]
    model = {**MODEL, "image_size": 4 * grid}
    job = {"model": model, "method": {**METHOD, "predict_ratio": ratio}, "data": {"group": 4}, "seed": 7}
    drawn = reference.draw(job, [number])
    mask = drawn["mask"][0]
    assert zlib.crc32(np.packbits(mask).tobytes()) == crc
    assert drawn["keep"][0].tolist() == np.flatnonzero(~mask).tolist()
    assert sorted(drawn["query"][0].tolist()) == np.flatnonzero(drawn["predict"][0]).tolist()
    assert predicted is None or drawn["query"][0].tolist() == predicted
    word = words(7, 38, torch.tensor([number]), 1)[:, 0]
    sides = inverse_block.block_shapes(word, grid=grid, visible=int((~mask).sum()))
    assert tuple(int(side) for side in sides) == shape


def test_shapes_have_the_probabilities_of_the_table() -> None:
    tall, flat = inverse_block._steps(16, 90, CPU)
    steps = sorted({*tall.tolist(), *flat.tolist()})
    shares = np.diff([0, *steps, 2**24]) / 2**24
    half = [0.0455, 0.0159, 0.0995, 0.0931, 0.0324, 0.1375, 0.1520]
    assert shares == pytest.approx([*half, *half[-2::-1]], abs=6e-5)
    sides = inverse_block.block_shapes(torch.tensor([0, *steps]) << 8, grid=16, visible=90)
    shapes = [(7, 14), (7, 13), (8, 13), (8, 12), (9, 12), (9, 11), (10, 10)]
    found = list(zip(*(side.tolist() for side in sides), strict=True))
    assert found == [*shapes, *((w, h) for h, w in shapes[-2::-1])]


def test_masks_keep_their_rules_over_a_thousand_draws() -> None:
    job = {"model": {**MODEL, "image_size": 64}, "method": METHOD, "data": {"group": 4}, "seed": 1}
    drawn = reference.draw(job, range(1000))
    mask, predict = drawn["mask"], drawn["predict"]
    assert set(mask.sum(1)) == {166}
    assert set(predict.sum(1)) == {33}
    assert not (predict & ~mask).any()
    assert np.abs((~mask).mean(0) - 90 / 256).max() < 4.5 * (0.35 * 0.65 / 1000) ** 0.5, "each cell equally often"
    assert np.abs(predict.mean(0) - 33 / 256).max() < 4.5 * (0.13 * 0.87 / 1000) ** 0.5
    shown = ~mask.reshape(-1, 16, 16)
    wraps = (shown[:, 0] & shown[:, -1]).any(1) | (shown[:, :, 0] & shown[:, :, -1]).any(1)
    assert wraps.mean() == pytest.approx(0.81, abs=0.04)
    assert (reference.draw(job, range(500, 600))["query"] == drawn["query"][500:600]).all()


# ---- schedules and sizes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "momentum"),
    [(0, 1), (49_999, 0.999), (50_000, 0.999), (275_000, 0.9993454915), (499_999, 0.9999045069)],
)
def test_the_momentum_is_the_reference(step: int, momentum: float) -> None:
    weight = capi.teacher_weight(CapiOptions(name="capi"), step, 500_000)
    assert 1 - weight == pytest.approx(momentum, rel=1e-10)


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0), (49_999, 1e-3), (50_000, 1e-3), (275_000, 6.545085e-4), (499_999, 9.549314e-5)]
)
def test_the_learning_rates_are_the_reference(step: int, rate: float) -> None:
    law = {"law": "truncated", "warmup": "50000 steps", "final_lr": 0}
    schedule = Schedule.of(
        Optim.model_validate({"lr": 1e-3, "lr_per": None, "schedule": law}),
        batch=16_384,
        run_steps=500_000,
        epoch_steps=1,
    )
    assert schedule.learning_rate(step) == pytest.approx(rate, rel=1e-7)
    clusters = blank(reference._setting(spec())).multipliers("clusters.weight")[0]  # type: ignore[attr-defined]
    assert clusters * schedule.learning_rate(step) == pytest.approx(rate / 2, rel=1e-7)
    assert schedule.learning_rate(600_000) == pytest.approx(1e-3 * (1 + np.cos(0.8 * np.pi)) / 2)


def test_rates_and_decays_are_multiplied_as_released() -> None:
    method = blank(reference._setting(spec()))
    expected = {
        "encoder.patch_embed.proj.weight": (0.2, 1),
        "encoder.patch_embed.proj.bias": (0.2, 0),
        "encoder.reg_token": (1, 1),
        "mask_token": (1, 1),
        "encoder.blocks.1.norm2.weight": (1, 0.1),
        "predictor.blocks.0.norm1.weight": (1, 0.1),
        "predictor.blocks.0.attn.kv.weight": (1, 1),
        "head.weight_g": (1, 1),
        "head.weight_v": (1, 1),
        "clusters.weight": (0.5, 0.1),
        "clusters.bias": (0.5, 0.1),
    }
    assert isinstance(method, Multiplies)
    assert {name: method.multipliers(name) for name in expected} == expected
    groups = parameter_groups(method.module, "none", method.multipliers)
    assert {(group["lr_scale"], group["decay_scale"]) for group in groups} == set(expected.values())


@pytest.mark.parametrize(
    ("size", "encoder", "predictor"),
    [
        ("small", 21_475_200, 21_242_880),
        ("base", 85_417_728, 84_953_088),
        ("large", 302_658_560, 151_019_520),
    ],
)
def test_parameters_are_as_many_as_the_table_says(size: str, encoder: int, predictor: int) -> None:
    options = {"name": "capi", "clusters": 16_384}
    job = {"model": {"size": size, "patch_size": 14, "image_size": 224}, "method": options, "data": {"group": 4}}
    setting = reference._setting(job)
    module = blank(setting).module

    def count(part: torch.nn.Module) -> int:
        return sum(p.numel() for p in part.parameters())

    assert count(module.encoder) == encoder
    assert count(module.predictor) == predictor
    width = setting.model.width
    assert count(module.head) == count(module.clusters) == 16_384 * (width + 1)
    counts = setting.options.counts(setting.model, 224)
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    assert (counts.trained, counts.frozen) == (trained, count(module) - trained)
    if size == "large":
        assert trained - count(module.clusters) == 470_472_704
        assert counts.teacher_flops == pytest.approx(1.72e11, rel=0.005)
