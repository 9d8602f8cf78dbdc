"""Probes of frozen encoders against plain oracles, image by image in numpy."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import reference
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import Multiplies, Setting
from tests.golden.test_methods import COUNT, GROUP, MODEL, SIZE, images, state
from tests.unit.methods import vit_oracle
from tests.unit.methods.jobs import job

ENCODER = {"model": {**MODEL, "drop_path": 0}, "data": {"group": GROUP}, "seed": 0}
LABEL = (3 * np.arange(COUNT) + 1) % 5
LINEAR, ATTENTIVE = {"name": "linear", "classes": 5}, {"name": "attentive", "classes": 5, "queries": 8}


def oracle_features(weights: Any, x: Any, feature: str) -> Any:
    tokens = vit_oracle.norm(vit_oracle.tokens(weights, x, None, heads=2, patch=4), weights, "encoder.norm")
    return {"class": tokens[0], "mean": tokens[1:].mean(0), "patches": tokens[1:]}[feature]


def cross_entropy(weights: Any, feature: Any, label: int) -> float:
    logits = weights["classifier.weight"] @ feature + weights["classifier.bias"]
    return float(np.log(np.exp(logits).sum()) - logits[label])


@pytest.mark.parametrize("feature", ["class", "mean"])
def test_the_linear_probe_is_a_plain_oracles(feature: str) -> None:
    spec = {**ENCODER, "method": {**LINEAR, "feature": feature}}
    weights, pixels = state(spec), images(1)
    features = np.array([oracle_features(weights, x, feature) for x in pixels[:, 0]])
    expected = []
    for group in (slice(0, GROUP), slice(GROUP, COUNT)):
        own = features[group]
        normed = (own - own.mean(0)) / np.sqrt(((own - own.mean(0)) ** 2).mean(0) + 1e-6)
        losses = [cross_entropy(weights, x, label) for x, label in zip(normed, LABEL[group], strict=True)]
        expected.append(np.mean(losses))
    result = reference.verify(spec, weights, pixels, {"label": LABEL}, dtype="float64", gradients=list(weights))
    assert result.losses == pytest.approx(expected, rel=1e-9)
    assert {name for name, g in result.gradients.items() if g is not None} == {"classifier.weight", "classifier.bias"}


@pytest.mark.parametrize("seed", range(3))
def test_the_attentive_probe_is_a_plain_oracles(seed: int) -> None:
    spec = {**ENCODER, "method": ATTENTIVE}
    random = np.random.default_rng(seed)
    weights = {name: value + 0.1 * random.standard_normal(value.shape) for name, value in state(spec).items()}
    pixels, features = random.standard_normal((COUNT, 1, 3, SIZE, SIZE)), []
    for x in pixels[:, 0]:
        patches, pooled = oracle_features(weights, x, "patches"), []
        for query, own in zip(weights["queries"], np.split(weights["value.weight"], 8), strict=True):
            scores = np.exp(patches @ query / np.sqrt(32))
            pooled.append(own @ (scores / scores.sum() @ patches))
        features.append(np.concatenate(pooled))
    groups = np.array(features).reshape(-1, GROUP, 32)
    normed = (groups - groups.mean(1, keepdims=True)) / np.sqrt(groups.var(1, keepdims=True) + 1e-6)
    losses = [cross_entropy(weights, x, label) for x, label in zip(normed.reshape(COUNT, 32), LABEL, strict=True)]
    result = reference.verify(spec, weights, pixels, {"label": LABEL}, dtype="float64", gradients=list(weights))
    assert result.losses == pytest.approx(np.array(losses).reshape(-1, GROUP).mean(1), rel=1e-9)
    trained = {name for name, g in result.gradients.items() if g is not None}
    assert trained == {"queries", "value.weight", "classifier.weight", "classifier.bias"}


def test_heads_of_several_rates_are_heads_alone() -> None:
    """Loss, hits and gradient of each; the loss of a group is their sum."""
    several = {**ENCODER, "method": {**LINEAR, "rates": [0.5, 1, 30]}}
    single, random = {**ENCODER, "method": LINEAR}, np.random.default_rng(2)
    weights = state(several)
    weights |= {name: random.standard_normal(w.shape) for name, w in weights.items() if name.startswith("classifier")}
    names = [f"classifier.{head}.{kind}" for head in range(3) for kind in ("weight", "bias")]
    result = reference.verify(several, weights, images(1), {"label": LABEL}, dtype="float64", gradients=names)
    total = np.zeros(2)
    for head, rate in enumerate(("0.5", "1", "30")):
        own = {name.replace(f"classifier.{head}.", "classifier."): weights[name] for name in weights}
        own = {name: own[name] for name in state(single)}
        alone = ["classifier.weight", "classifier.bias"]
        expected = reference.verify(single, own, images(1), {"label": LABEL}, dtype="float64", gradients=alone)
        total += expected.losses
        assert result.scalars[f"loss_{rate}"][:, 0] == pytest.approx(expected.losses, rel=1e-12)
        assert np.array_equal(result.scalars[f"top1_{rate}"], expected.scalars["top1"])
        for kind in ("weight", "bias"):
            found = result.gradients[f"classifier.{head}.{kind}"]
            assert found == pytest.approx(expected.gradients[f"classifier.{kind}"], rel=1e-9, abs=1e-15)
    assert result.losses == pytest.approx(total, rel=1e-12)


def test_all_heads_begin_as_one_alone() -> None:
    several, single = (build(job({**LINEAR, **rates}, init={"run": "other"})) for rates in ({"rates": [1, 3]}, {}))
    alone = single.module.get_parameter("classifier.weight")
    assert all(torch.equal(several.module.get_parameter(f"classifier.{head}.weight"), alone) for head in (0, 1))


def test_a_head_learns_at_its_own_rate() -> None:
    method = blank(Setting.of(job({**LINEAR, "rates": [0.5, 1, 30]}, init={"run": "other"})))
    assert isinstance(method, Multiplies)
    assert [method.multipliers(f"classifier.{head}.bias") for head in range(3)] == [(0.5, 1), (1, 1), (30, 1)]
    alone = blank(Setting.of(job({**LINEAR, "rates": [3]}, init={"run": "other"})))
    assert isinstance(alone, Multiplies)
    assert alone.multipliers("classifier.weight") == (3, 1)


def test_a_factor_named_twice_is_refused() -> None:
    with pytest.raises(SpecError, match="names a factor twice; leave one out"):
        reference.draw({**ENCODER, "method": {**LINEAR, "rates": [1, 3, 1.0]}}, [0])


def test_hits_are_counted() -> None:
    spec = {**ENCODER, "method": ATTENTIVE}
    result = reference.verify(spec, state(spec), images(1), {"label": LABEL}, dtype="float64")
    hits = (result.outputs["prediction"].argmax(1) == LABEL).reshape(-1, GROUP).sum(1)
    assert result.scalars["top1"].tolist() == [[hit, GROUP] for hit in hits.tolist()]


@pytest.mark.parametrize(
    "method", [LINEAR, {**LINEAR, "feature": "mean", "rates": [1, 2, 5]}, {**ATTENTIVE, "queries": 4}]
)
@pytest.mark.parametrize(
    "encoder",
    [
        None,
        {"positions": "relative", "key_bias": False, "layer_scale": True},
        {"class_token": False},
        {"rotary": {"registers": 4}},
    ],
)
def test_counts_are_the_modules(method: dict[str, Any], encoder: Any) -> None:
    if encoder is not None and "positions" not in encoder and method == LINEAR:
        message = r"method.encoder.(class_token: false|rotary: no class token), but the head reads the class token"
        with pytest.raises(SpecError, match=message):
            reference.draw({**ENCODER, "method": {**method, "encoder": encoder}}, [0])
        return
    spec = job({**method, "encoder": encoder}, init={"run": "other"})
    counts, module = spec.method.counts(spec.model, 16), blank(Setting.of(spec)).module
    trained, frozen = (sum(p.numel() for p in module.parameters() if p.requires_grad is kind) for kind in (True, False))
    assert (counts.trained, counts.frozen) == (trained, frozen)


def test_queries_divide_the_width() -> None:
    with pytest.raises(SpecError, match=r"method.queries: 5 queries do not divide the width of 32"):
        reference.draw({**ENCODER, "method": {**ATTENTIVE, "queries": 5}}, [0])


def test_a_group_of_one_image_has_no_variance() -> None:
    with pytest.raises(SpecError, match=r"data.group: 1 is too few; features are normed over the images of a group"):
        reference.draw({**ENCODER, "method": LINEAR, "data": {"group": 1}}, [0])
