"""Relations of patches beside another method's loss: what is added is RelViT's, and nothing else changes."""

from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.errors import SpecError
from gmml_cluster.methods import reference
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import LABEL, AfterStep, Shows, Verifiable
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import parse_job
from tests.golden.relvit_oracle import cross_entropy, distance, relation
from tests.unit.methods.jobs import job

CPU = torch.device("cpu")
TASKS = {"distances": True, "weight": 0.5}
BASES: dict[str, dict[str, Any]] = {
    "gmml": {"name": "gmml"},
    "mae": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "simmim": {"name": "simmim"},
    "simmim, plain": {"name": "simmim", "plain": True, "final_norm": False},
    "conmim": {"name": "conmim", "projector": [32, 32, 16]},
    "supervised": {"name": "supervised", "classes": 10},
    "supervised, mean": {"name": "supervised", "classes": 10, "pool": "mean"},
}


def alone_and_joint(name: str, **options: Any) -> tuple[JobSpec, JobSpec]:
    base: dict[str, Any] = {"image_size": 16, "model": {"drop_path": 0}}
    return job(BASES[name], **base), job(BASES[name], auxiliary={**TASKS, **options}, **base)


def inputs(method: Any, count: int = 8) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    numbers = torch.arange(count)
    images = torch.randn(count, method.views, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return images, {**method.draw(numbers, CPU), LABEL: numbers % 10}


def expected(tokens_BKD: np.ndarray, places_BK: np.ndarray, heads: dict[str, np.ndarray], views: int) -> list[float]:
    """Sum of the tasks' losses of each group, a pair at a time."""
    losses = []
    for z, places in zip(tokens_BKD.astype(float), places_BK, strict=True):
        width, sums = z.shape[1], np.zeros(3)
        q, k = (heads[f"relations.{part}.weight"].reshape(9, -1, width) for part in ("query", "key"))
        far_q, far_k = (heads[f"distances.{part}.weight"] for part in ("query", "key"))
        for i, a in enumerate(places):
            logits = heads["positions.weight"] @ z[i] + heads["positions.bias"]
            sums[0] += cross_entropy(logits, int(a)) / len(places)
            for j, b in enumerate(places):
                logits = np.array([(q[c] @ z[i]) @ (k[c] @ z[j]) for c in range(9)]) / q.shape[1] ** 0.5
                sums[1] += cross_entropy(logits, relation(int(a), int(b), 4)) / len(places) ** 2
                found = (far_q @ z[i]) @ (far_k @ z[j]) / width**0.5
                sums[2] += (found - distance(int(a), int(b), 4)) ** 2 / len(places) ** 2
        losses.append(sums.sum())
    return np.array(losses).reshape(-1, views).mean(1).tolist()


@pytest.mark.parametrize("name", BASES)
def test_the_loss_is_the_methods_own_and_that_of_the_patches_it_holds(name: str) -> None:
    alone, joint = (build(spec) for spec in alone_and_joint(name))
    images, draws = inputs(joint)
    seen: list[tuple[torch.Tensor, Any]] = []
    encoder: Any = joint.module.get_submodule("encoder")
    handle = encoder.register_forward_hook(lambda _, args, given, out: seen.append((out, given)), with_kwargs=True)
    with torch.no_grad():
        losses, own = joint.loss(joint.module, images, draws), alone.loss(alone.module, images, draws)
        handle.remove()
        ((tokens, given),) = seen
        tokens = tokens if given.get("normed", True) else encoder.norm(tokens)
    places = given.get("keep_BK")
    places = np.tile(np.arange(16), (len(tokens), 1)) if places is None else places.numpy()
    assert name != "mae" or places.shape == (8, 4)
    heads = {n: p.detach().numpy().astype(float) for n, p in joint.module.get_submodule("auxiliary").named_parameters()}
    beside = expected(tokens[:, 1:].numpy(), places, heads, 4 * len(tokens) // 8)
    assert (losses.groups - own.groups).tolist() == pytest.approx([0.5 * value for value in beside], rel=1e-4)
    assert {*own.scalars, "loss_relations", "accuracy_positions", "floor_distances"} <= set(losses.scalars)


@pytest.mark.parametrize("name", BASES)
def test_every_parameter_is_trained_and_counted_and_the_methods_own_begin_as_without(name: str) -> None:
    alone, joint = alone_and_joint(name)
    method = build(joint)
    images, draws = inputs(method)
    method.loss(method.module, images, draws).groups.sum().backward()
    parameters = dict(method.module.named_parameters())
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in parameters.values())
    own = dict(build(alone).module.named_parameters())
    assert all(torch.equal(parameters[key], value) for key, value in own.items())
    assert {key.split(".")[0] for key in set(parameters) - set(own)} == {"auxiliary"}
    assert sum(p.numel() for p in parameters.values()) - sum(p.numel() for p in own.values()) == (
        counts_of(joint).trained - counts_of(alone).trained
    )
    assert float(parameters["auxiliary.positions.bias"].detach().abs().max()) <= 16**-0.5


def test_a_method_keeps_what_it_can_do_beside_its_loss() -> None:
    for name in BASES:
        alone, joint = (build(spec) for spec in alone_and_joint(name))
        for protocol in (Verifiable, Shows, AfterStep):
            assert isinstance(joint, protocol) == isinstance(alone, protocol)


def test_conmims_teacher_follows_its_student_and_no_heads() -> None:
    method: Any = build(alone_and_joint("conmim")[1])
    update, names = method.after_step(0, 10), {name for name, _ in method.module.named_parameters()}
    assert {*update.targets, *update.sources} == {name for name in names if not name.startswith("auxiliary.")}


def test_outside_of_the_loss_the_encoder_is_as_it_was() -> None:
    alone, joint = (build(spec) for spec in alone_and_joint("gmml"))
    images, draws = inputs(joint)
    joint.loss(joint.module, images, draws)
    encoder: Any = joint.module.get_submodule("encoder")
    assert not encoder._forward_hooks
    assert torch.equal(encoder(images[:, 0]), alone.module.get_submodule("encoder")(images[:, 0]))


@pytest.mark.parametrize("name", ["mae", "simmim", "conmim"])
def test_it_can_be_verified_in_float64_with_and_without_checkpointing(name: str) -> None:
    model = {"width": 16, "depth": 2, "heads": 2, "patch_size": 4, "image_size": 16, "drop_path": 0}
    spec = {"model": model, "method": BASES[name], "auxiliary": {}, "data": {"group": 4}, "seed": 3}
    checkpointed = {**spec, "engine": {"activation_checkpointing": True}}
    built = build(job(BASES[name], model={"depth": 2}, auxiliary={})).module
    state = {name: parameter.detach().numpy() for name, parameter in built.named_parameters()}
    views = 2 if name == "conmim" else 1
    images = np.random.default_rng(0).normal(size=(8, views, 3, 16, 16))
    names = ["auxiliary.relations.query.weight", "encoder.blocks.0.attn.qkv.weight"]
    plain, again = (
        reference.verify(each, state, images, {"first": 0}, dtype="float64", gradients=names)
        for each in (spec, checkpointed)
    )
    assert np.array_equal(plain.losses, again.losses)
    assert all(np.array_equal(plain.gradients[name], again.gradients[name]) for name in names)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [{"name": "relvit"}, {"name": "ijepa"}, {"name": "capi"}], ids=str)
def test_a_method_that_has_no_place_for_it_is_refused(method: dict[str, Any]) -> None:
    given = {
        "name": "x",
        "model": {"width": 16, "depth": 2, "heads": 2, "patch_size": 4},
        "method": method,
        "auxiliary": {},
        "data": {"corpora": [{"url": "x"}], "image_size": 32},
        "batch": {"size": 8},
        "run": {"steps": 1},
    }
    those = "conmim, finetune, gmml, mae, simmim, supervised"
    problem = (
        f"auxiliary: relations of patches cannot be learned beside {method['name']}; leave it out, or choose one of"
    )
    with pytest.raises(SpecError, match=f"{problem} {those}"):
        parse_job(given)
