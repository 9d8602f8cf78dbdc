"""Fine-tuning: the layers' learning rates and the head; its loss is that of supervised training."""

import pytest
import torch

from gmml_cluster.methods.build import build
from gmml_cluster.methods.finetune import layer_of
from gmml_cluster.methods.protocol import AfterStep, EmaUpdate, Multiplies, exported_name
from tests.unit.methods.jobs import job

FINETUNE = {"name": "finetune", "classes": 5}
# arXiv 2111.06377's released code at depth 12 and 0.65, ids 0 to 13
FACTORS = [
    0.0037, 0.00569, 0.00875, 0.01346, 0.02071, 0.03186, 0.04902, 0.07542, 0.11603, 0.17851, 0.27463, 0.4225, 0.65, 1
]  # fmt: skip


def test_layers_learn_at_the_rates_of_the_released_code() -> None:
    method = build(job(FINETUNE, model={"depth": 12}, init={"run": "other"}))
    assert isinstance(method, Multiplies)
    names = [name for name, _ in method.module.named_parameters()]
    assert {layer_of(name, 12) for name in names} == set(range(14))
    for name in names:
        lr, decay = method.multipliers(name)
        assert lr == pytest.approx(FACTORS[layer_of(name, 12)], abs=6e-6), name
        assert decay == 1


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("encoder.cls_token", 0),
        ("encoder.pos_embed", 0),
        ("encoder.reg_token", 0),
        ("encoder.patch_embed.proj.bias", 0),
        ("encoder.blocks.0.norm1.weight", 1),
        ("encoder.blocks.11.mlp.fc2.bias", 12),
        ("encoder.norm.weight", 13),
        ("classifier.bias", 13),
    ],
)
def test_a_parameter_belongs_to_its_layer(name: str, layer: int) -> None:
    assert layer_of(name, 12) == layer


def test_the_head_begins_near_zero() -> None:
    weight = build(job(FINETUNE, model={"width": 192}, init={"run": "other"})).module.get_parameter("classifier.weight")
    assert float(weight.detach().std()) == pytest.approx(2e-5, rel=0.1)


def test_the_average_begins_as_the_rest_and_follows_all_of_it() -> None:
    spec = job({**FINETUNE, "ema": 0.999}, init={"run": "other"})
    method = build(spec)
    assert isinstance(method, AfterStep)
    assert exported_name(method) == "average.encoder"
    trained = {name: value for name, value in method.module.named_parameters() if value.requires_grad}
    frozen = {name: value for name, value in method.module.named_parameters() if not value.requires_grad}
    assert {name.removeprefix("average.") for name in frozen} == trained.keys()
    assert all(torch.equal(frozen[f"average.{name}"], value) for name, value in trained.items())
    names = tuple(name.removeprefix("average.") for name in frozen)
    assert method.after_step(3, 9) == EmaUpdate(tuple(frozen), names, pytest.approx(1e-3))
    counts = spec.method.counts(spec.model, spec.data.image_size)
    assert counts.frozen == counts.trained == sum(value.numel() for value in trained.values())


def test_without_an_average_there_is_no_teacher() -> None:
    method = build(job(FINETUNE, init={"run": "other"}))
    assert not isinstance(method, AfterStep)
    assert exported_name(method) == "encoder"
