"""Supervised training against reference values computed apart from this code, and against a plain oracle."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.data.random import philox
from gmml_cluster.errors import SpecError
from gmml_cluster.methods import mixing, reference
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.spec.job import Model
from tests.golden.test_methods import COUNT, GROUP, MODEL, QKV, SIZE, images, state
from tests.unit.methods.jobs import job
from tests.unit.methods.vit_oracle import encode

SUPERVISED = {
    "model": MODEL,
    "method": {"name": "supervised", "classes": 10, "smoothing": 0.1, "mixup": 0.8},
    "data": {"group": GROUP},
    "seed": 0,
}


def drop() -> np.ndarray:
    b, v, layer, k = np.ogrid[:COUNT, :1, :2, :2]
    return np.where(layer == 0, 1.0, np.where((b + 2 * v + k) % 5 == 0, 0.0, 1 / 0.9))


DRAWS = {"label": (3 * np.arange(COUNT) + 1) % 10, "lambda": np.array([0.7, 0.4]), "drop": drop()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 2e-7), ("float32", 2e-5)])
def test_losses_and_gradients_are_the_reference(dtype: Any, tolerance: float) -> None:
    weights = state(SUPERVISED)
    assert (len(weights), sum(value.size for value in weights.values())) == (32, 27_946)
    assert sum(value.sum() for value in weights.values()) == pytest.approx(108.612895, rel=1e-8)
    result = reference.verify(SUPERVISED, weights, images(1), DRAWS, dtype=dtype, gradients=list(weights))
    norms = {name: float(np.linalg.norm(g)) for name, g in result.gradients.items()}
    assert result.losses == pytest.approx([3.057950416, 3.035423883], rel=tolerance)
    assert math.hypot(*norms.values()) == pytest.approx(6.889612642, rel=tolerance)
    assert norms[QKV] == pytest.approx(1.335247720, rel=tolerance)


def test_the_share_of_the_first_group_is_the_reference() -> None:
    drawn = torch.as_tensor(philox.words(7, philox.Purpose.MIXUP, np.array([0]), 68).astype(np.int64))
    assert mixing.beta(drawn[:, 4:], 0.8).tolist() == pytest.approx([0.607880102], abs=1e-9)
    assert int(drawn[0, 1] >> 8) < 2**23, "it is CutMix"


def plain_draw(seed: int, first: int, mixup: float, cutmix: float, size: int) -> tuple[float, list[int]]:
    """Share and box of a group, number by number."""
    w = [int(word) for word in philox.words(seed, 56, np.array([first]), 68)[0]]
    cuts = cutmix > 0 and (mixup == 0 or w[1] / 2**32 < 0.5)
    alpha = cutmix if cuts else mixup
    pairs = [[(((w[4 + 2 * k + i] >> 8) + 1) / 2**24) ** (1 / alpha) for i in (0, 1)] for k in range(32)]
    x, y = next(pair for pair in pairs if sum(pair) <= 1)
    if not cuts:
        return x / (x + y), [0] * 4
    half = int(size * math.sqrt(1 - x / (x + y))) // 2
    centre = [w[2] * size >> 32, w[3] * size >> 32]
    box = [max(c - half, 0) for c in centre] + [min(c + half, size) for c in centre]
    return 1 - (box[2] - box[0]) * (box[3] - box[1]) / size**2, box


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 1.0), (0.2, 0), (0, 1.0), (0, 0.3)])
def test_shares_and_boxes_are_those_of_the_words(mixup: float, cutmix: float) -> None:
    firsts = [0, 4, 2**33 + 8, *range(12, 400, 4)]
    share, box = mixing.draw_mixing(7, torch.tensor(firsts), mixup=mixup, cutmix=cutmix, size=16)
    expected = [plain_draw(7, first, mixup, cutmix, 16) for first in firsts]
    assert share.tolist() == pytest.approx([share for share, _ in expected])
    assert box.tolist() == [box for _, box in expected]


def test_shares_follow_the_beta_distribution() -> None:
    share, _ = mixing.draw_mixing(1, torch.arange(0, 8000, 2), mixup=0.8, cutmix=0, size=8)
    for alpha, values in ((0.8, share),):
        variance = 1 / (4 * (2 * alpha + 1))
        assert float(values.mean()) == pytest.approx(0.5, abs=4 * (variance / len(values)) ** 0.5)
        assert float(values.var()) == pytest.approx(variance, rel=0.05)


@pytest.mark.parametrize("case", range(6))
def test_losses_are_those_of_a_plain_oracle(case: int) -> None:
    random = np.random.default_rng(case)
    method = {
        "name": "supervised",
        "classes": int(random.integers(2, 7)),
        "smoothing": float(random.choice([0, 0.1])),
        "pool": str(random.choice(["class", "mean"])),
        **({"mixup": 0, "cutmix": 0} if case == 5 else {}),
    }
    spec = {**SUPERVISED, "method": method}
    weights = {name: value + 0.1 * random.standard_normal(value.shape) for name, value in state(spec).items()}
    pixels = random.standard_normal((COUNT, 1, 3, SIZE, SIZE))
    draws: dict[str, np.ndarray] = {"label": random.integers(0, method["classes"], COUNT), "drop": drop()}
    shares, boxes = [1.0, 1.0], [[0] * 4] * 2
    if case != 5:
        shares, boxes = random.uniform(0, 1, 2).tolist(), [[0] * 4, [2, 5, 9, 16]]
        shares[1] = 1 - 7 * 11 / SIZE**2
        draws |= {"lambda": np.array(shares), "box": np.array(boxes)}
    result = reference.verify(spec, weights, pixels, draws, dtype="float64")
    expected = [
        oracle(method, weights, pixels[:, 0], draws, first, share, box)
        for first, share, box in zip((0, GROUP), shares, boxes, strict=True)
    ]
    assert result.losses == pytest.approx(expected, rel=1e-9)


def oracle(method: Any, weights: Any, x: Any, draws: Any, first: int, share: float, box: list[int]) -> float:
    """Loss of a group, image by image."""
    total = 0.0
    for i in range(GROUP):
        own, other = first + i, first + GROUP - 1 - i
        mixed = share * x[own] + (1 - share) * x[other]
        if any(box):
            mixed = x[own].copy()
            mixed[:, box[0] : box[2], box[1] : box[3]] = x[other][:, box[0] : box[2], box[1] : box[3]]
        target = np.full(method["classes"], method["smoothing"] / method["classes"])
        target[draws["label"][own]] += share * (1 - method["smoothing"])
        target[draws["label"][other]] += (1 - share) * (1 - method["smoothing"])
        feature = encode(weights, mixed, draws["drop"][own, 0], heads=2, patch=4, pool=method["pool"])
        logits = weights["classifier.weight"] @ feature + weights["classifier.bias"]
        total -= float(target @ (logits - np.log(np.exp(logits).sum())))
    return total / GROUP


def test_what_is_drawn_depends_on_no_batch() -> None:
    whole = reference.draw(SUPERVISED, range(64))
    parts = [reference.draw(SUPERVISED, range(first, first + 8)) for first in range(0, 64, 8)]
    for name, values in whole.items():
        assert np.array_equal(values, np.concatenate([part[name] for part in parts])), name


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.full(COUNT, 10), "draws.label: holds 10 to 10; classes are integers 0 to 9"),
        (np.full(COUNT, -1), "draws.label: holds -1 to -1"),
        (None, "draws.label: absent"),
    ],
)
def test_labels_that_are_no_classes_are_refused(label: Any, message: str) -> None:
    draws = {**{name: value for name, value in DRAWS.items() if name != "label"}}
    with pytest.raises(SpecError, match=message):
        reference.verify(
            SUPERVISED, state(SUPERVISED), images(1), draws if label is None else {**draws, "label": label}
        )


@pytest.mark.parametrize(("size", "parameters"), [("small", 22_050_664), ("base", 86_567_656), ("large", 304_326_632)])
def test_parameters_are_those_of_the_module_and_of_deit(size: str, parameters: int) -> None:
    spec = job({"name": "supervised", "classes": 1000}, image_size=224, model={"size": size, **as_size(size)})
    module = blank(Setting.of(spec)).module
    assert sum(p.numel() for p in module.parameters()) == parameters
    assert spec.method.counts(spec.model, 224).trained == parameters


def as_size(size: str) -> dict[str, int]:
    model = Model(size=size)
    return {name: getattr(model, name) for name in ("width", "depth", "heads", "patch_size")}
