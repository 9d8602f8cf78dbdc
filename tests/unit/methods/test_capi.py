"""CAPI: what couples images, what draws and specs are refused, and what its encoder gives to others."""

from typing import Any

import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.evaluate.features import pool
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import exported_name
from gmml_cluster.plan.machine import Machine
from gmml_cluster.plan.plan import make_plan
from gmml_cluster.spec.loading.validate import load_profile, parse_job
from tests.unit.methods.jobs import job, setting

CPU = torch.device("cpu")
OPTIONS = {"name": "capi", "clusters": 8, "registers": 4, "predictor_depth": 2, "predict_ratio": 0.3}


def images(count: int) -> torch.Tensor:
    return torch.randn(count, 1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def test_images_are_coupled_within_their_group_alone() -> None:
    method = build(job(OPTIONS))
    draws, clean = method.draw(torch.arange(8), CPU), images(8)
    before = method.loss(method.module, clean, draws)
    clean[3] += 1
    after = method.loss(method.module, clean, draws)
    assert (before.outputs["target"] != after.outputs["target"]).flatten(1).any(1).tolist() == [True] * 4 + [False] * 4
    assert (before.outputs["prediction"] != after.outputs["prediction"]).flatten(1).any(1).nonzero().tolist() == [[3]]
    assert (before.groups != after.groups).tolist() == [True, False]


def test_no_query_changes_another() -> None:
    module = build(job(OPTIONS)).module
    draws = blank(setting(OPTIONS)).draw(torch.arange(4), CPU)
    query = draws["query"]
    one = module(images(4)[:, 0], draws["keep"], query[:, :1], None)[1]
    torch.testing.assert_close(module(images(4)[:, 0], draws["keep"], query, None)[1][:, :1], one)


def test_equal_images_have_uniform_targets_and_a_fresh_student_knows_nothing() -> None:
    method = build(job({**OPTIONS, "clusters": 256}, model={"width": 64}))
    draws = method.draw(torch.arange(4), CPU)
    same = method.loss(method.module, images(1).expand(4, -1, -1, -1, -1), draws)
    torch.testing.assert_close(same.outputs["target"], torch.full((4, 16, 256), 1 / 256))
    found = method.loss(method.module, images(4), draws)
    total, count = found.scalars["prediction_loss"][0].tolist()
    assert total / count == pytest.approx(torch.tensor(256.0).log().item(), rel=0.2)


def test_the_teacher_moves_by_the_momentum_and_its_encoder_is_what_is_exported() -> None:
    method = build(job(OPTIONS))
    update = method.after_step(0, 10)  # type: ignore[attr-defined]
    frozen = {name for name, tensor in method.module.named_parameters() if not tensor.requires_grad}
    assert set(update.targets) == frozen
    assert update.sources == tuple(name.removeprefix("teacher.") for name in update.targets)
    state = method.module.state_dict()
    assert all(torch.equal(state[target], state[source]) for target, source in zip(*_sides(update), strict=True))
    assert update.weight == 0
    encoder = method.module.get_submodule(exported_name(method))
    tokens = encoder(images(2)[:, 0])
    assert tokens.shape == (2, 4 + 16, 16)
    (mean,) = pool(encoder, images(2)[:, 0], (4,), ["mean"])  # type: ignore[arg-type]
    torch.testing.assert_close(mean, tokens[:, 4:].mean(1))
    assert torch.equal(encoder(images(2)[:, 0], taps=[4]), tokens)
    assert not torch.equal(encoder(images(2)[:, 0], taps=[3, 4]), tokens)


def _sides(update: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return update.targets, update.sources


def test_bf16_computes_the_heads_in_fp32() -> None:
    module = build(job(OPTIONS)).module
    draws = blank(setting(OPTIONS)).draw(torch.arange(4), CPU)
    with torch.autocast("cpu", torch.bfloat16):
        logits = module(images(4)[:, 0], draws["keep"], draws["query"], None)
    assert {part.dtype for part in logits} == {torch.float32}
    exact = module(images(4)[:, 0], draws["keep"], draws["query"], None)[0]
    torch.testing.assert_close(logits[0], exact, rtol=0, atol=0.1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"predict": torch.ones(4, 16, dtype=torch.bool)}, "draws.predict: chooses visible patches"),
        ({"mask": torch.zeros(4, 16, dtype=torch.bool)}, "draws.predict: chooses visible patches"),
        ({"mask": torch.ones(4, 16, dtype=torch.bool)}, r"draws.mask: leaves \[0\] patches"),
        ({"predict": torch.eye(16, dtype=torch.bool)[:4].cumsum(1) > 0}, "draws.predict: chooses"),
        ({"drop": torch.ones(4, 1, 4, 2)}, "draws.drop: shape"),
    ],
)
def test_draws_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    method = blank(setting(OPTIONS))
    given = method.draw(torch.arange(4), CPU)
    with pytest.raises(SpecError, match=message):
        method.accept({**given, **changes}, 4)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"group": 1}}, "data.group: 1 is too few"),
        ({"model": {"heads": 8}}, "model.heads: 8 heads are 2 wide"),
        ({"data": {"image_size": 4}}, "data.image_size: images of 4 are one patch"),
        ({"method": {"mask_ratio": 0.01}}, "method.mask_ratio: a mask_ratio of 0.01 leaves 16 of 16"),
        ({"method": {"registers": 6}}, "method.registers: 6"),
    ],
)
def test_options_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    spec = {
        "name": "x",
        "model": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4},
        "method": OPTIONS,
        "data": {"corpora": [{"url": "/c"}], "image_size": 16, "group": 4},
        "batch": {"size": 8},
        "run": {"steps": 1},
    }
    parse_job(spec)
    with pytest.raises(SpecError, match=message):
        parse_job({**spec, **{name: {**spec[name], **change} for name, change in changes.items()}})  # type: ignore[dict-item]


def test_a_plan_notes_more_clusters_than_a_group_balances() -> None:
    def notes(clusters: int) -> str:
        spec = job({**OPTIONS, "clusters": clusters})
        return " ".join(make_plan(spec, load_profile("local"), None, Machine(2, 0)).notes)

    assert "17 clusters over groups of 4 images: no target can be sharper than 1 in 4 of them" in notes(17)
    assert "clusters over groups" not in notes(16)


def test_every_trained_parameter_gets_a_gradient_and_the_teacher_none() -> None:
    method = build(job(OPTIONS, model={"drop_path": 0.2}))
    method.loss(method.module, images(8), method.draw(torch.arange(8), CPU)).groups.sum().backward()
    for name, parameter in method.module.named_parameters():
        assert (parameter.grad is None) is name.startswith("teacher."), name
