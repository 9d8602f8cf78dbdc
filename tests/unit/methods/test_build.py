"""Initial weights are a function of the seed and a parameter's name."""

import sys
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.random import philox
from gmml_cluster.errors import SpecError
from gmml_cluster.methods import init
from gmml_cluster.methods.build import _builder, blank, build
from gmml_cluster.methods.init import initial_weights
from gmml_cluster.methods.protocol import InitDistribution, Setting
from gmml_cluster.spec.augment import AUGMENTS, NORMALISATIONS
from gmml_cluster.spec.methods.registry import plug_ins
from tests.fixtures.plugins import install
from tests.unit.methods.jobs import job

OPTIONS = {
    "gmml": {"name": "gmml"},
    "mae": {"name": "mae", "decoder_width": 64, "decoder_depth": 2, "decoder_heads": 2},
    "capi": {"name": "capi", "clusters": 8, "registers": 4, "predictor_depth": 2},
    "conmim": {"name": "conmim", "projector": [64, 64, 32]},
    "simmim": {"name": "simmim"},
    "relvit": {"name": "relvit", "distances": True, "angles": True},
    "ijepa": {"name": "ijepa", "predictor_width": 24, "predictor_depth": 2},
}
METHODS = tuple(OPTIONS)
WIDE = {"width": 192, "depth": 2, "heads": 3}


@pytest.mark.parametrize("name", METHODS)
def test_a_method_whose_weights_are_to_be_loaded_has_the_same_tensors_and_draws_none(name: str, monkeypatch) -> None:
    drawn = build(job(OPTIONS[name])).module
    monkeypatch.setattr(init, "draw_weight", None)
    given = build(job(OPTIONS[name]), drawn=False).module
    facts = [
        [(key, tensor.shape, tensor.dtype, tensor.device, tensor.requires_grad) for key, tensor in each.items()]
        for each in (drawn.state_dict(keep_vars=True), given.state_dict(keep_vars=True))
    ]
    assert facts[0] == facts[1]


@pytest.mark.parametrize("name", METHODS)
def test_building_and_training_leave_torchs_generator_alone(name: str) -> None:
    before = torch.get_rng_state()
    method = build(job(OPTIONS[name]))
    draws = method.draw(torch.arange(4), torch.device("cpu"))
    method.loss(method.module, torch.zeros(4, method.views, 3, 16, 16), draws).groups.sum().backward()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", METHODS)
def test_weights_follow_the_seed_and_nothing_else(name: str) -> None:
    torch.manual_seed(0)
    first = build(job(OPTIONS[name])).module.state_dict()
    torch.manual_seed(1)
    again, other = (build(job(OPTIONS[name], seed=seed)).module.state_dict() for seed in (3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["encoder.patch_embed.proj.weight"], other["encoder.patch_embed.proj.weight"])


@pytest.mark.parametrize("name", METHODS)
def test_modules_are_ready_to_train(name: str) -> None:
    parameters = dict(build(job(OPTIONS[name])).module.named_parameters())
    assert {(p.dtype, p.device.type) for p in parameters.values()} == {(torch.float32, "cpu")}
    frozen = {key for key, p in parameters.items() if not p.requires_grad}
    assert frozen == {key for key in parameters if key.startswith("teacher.")}


def test_a_weight_takes_the_word_of_its_own_index() -> None:
    bits = philox.words(3, philox.Purpose.INIT, np.array([zlib.crc32(b"a.name")]), 9)[0].astype(np.int64)
    uniform = init.draw_weight(3, "a.name", torch.Size([3, 3]), InitDistribution("uniform", 0.5)).flatten()
    assert uniform.tolist() == pytest.approx((2 * (bits >> 8) / 2**24 - 1) * 0.5)
    normal = init.draw_weight(3, "a.name", torch.Size([3, 3]), InitDistribution("normal", 0.02)).flatten()
    radius = 0.02 * np.sqrt(-2 * np.log(((bits[0:8:2] >> 8) + 1) / 2**24))
    angle = 2 * np.pi * (bits[1:9:2] >> 8) / 2**24
    assert normal[0:8:2].tolist() == pytest.approx(radius * np.cos(angle))
    assert normal[1:9:2].tolist() == pytest.approx(radius * np.sin(angle))


def test_a_long_weight_is_drawn_in_chunks_as_in_one_go(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, normal = torch.Size([7, 11]), InitDistribution("normal", 1.0)
    whole = init.draw_weight(0, "w", shape, normal)
    monkeypatch.setattr(init, "_BLOCKS_AT_ONCE", 3)
    assert torch.equal(init.draw_weight(0, "w", shape, normal), whole)


GMML = {
    "encoder.blocks.1.attn.qkv.weight": ("normal", 0.02),
    "encoder.cls_token": ("normal", 0.02),
    "encoder.pos_embed": ("normal", 0.02),
    "head.mlp.2.weight": ("normal", 0.02),
    "encoder.patch_embed.proj.weight": ("uniform", 48**-0.5),
    "encoder.patch_embed.proj.bias": ("uniform", 48**-0.5),
    "head.convTrans.weight": ("uniform", 48**-0.5),
    "head.convTrans.bias": ("uniform", 48**-0.5),
    "head.mlp.2.bias": ("constant", 0.0),
    "encoder.norm.weight": ("constant", 1.0),
    "encoder.norm.bias": ("constant", 0.0),
}
MAE = {
    "encoder.blocks.1.attn.qkv.weight": ("uniform", (6 / (4 * 192)) ** 0.5),
    "encoder.patch_embed.proj.weight": ("uniform", (6 / (192 + 48)) ** 0.5),
    "encoder.patch_embed.proj.bias": ("uniform", 48**-0.5),
    "encoder.cls_token": ("normal", 0.02),
    "decoder.mask_token": ("normal", 0.02),
    "decoder.embed.weight": ("uniform", (6 / (192 + 64)) ** 0.5),
    "decoder.pred.weight": ("uniform", (6 / (64 + 48)) ** 0.5),
    "decoder.pred.bias": ("constant", 0.0),
    "decoder.norm.weight": ("constant", 1.0),
}


CAPI = {
    "encoder.blocks.1.attn.qkv.weight": ("uniform", (6 / (2 * 192)) ** 0.5),
    "encoder.blocks.1.mlp.fc1.weight": ("uniform", (6 / (5 * 192)) ** 0.5),
    "predictor.blocks.1.attn.kv.weight": ("uniform", (6 / (2 * 192)) ** 0.5),
    "encoder.patch_embed.proj.weight": ("uniform", (6 / (192 + 48)) ** 0.5),
    "encoder.patch_embed.proj.bias": ("uniform", 48**-0.5),
    "encoder.blocks.0.norm1.weight": ("constant", 1.0),
    "encoder.reg_token": ("normal", 0.02),
    "mask_token": ("normal", 0.02),
    "head.weight_v": ("normal", 0.02),
    "head.weight_g": ("constant", 1.0),
    "clusters.weight": ("normal", 1.0),
    "clusters.bias": ("constant", 0.0),
}


RELVIT = {
    "encoder.blocks.1.attn.qkv.weight": ("normal", 0.02),
    "encoder.cls_token": ("normal", 0.02),
    "encoder.patch_embed.proj.weight": ("uniform", 48**-0.5),
    "encoder.patch_embed.proj.bias": ("uniform", 48**-0.5),
    "encoder.norm.weight": ("constant", 1.0),
    "encoder.norm.bias": ("constant", 0.0),
    "relations.query.weight": ("uniform", 192**-0.5),
    "distances.key.weight": ("uniform", 192**-0.5),
    "positions.weight": ("uniform", 192**-0.5),
    "positions.bias": ("uniform", 192**-0.5),
}


IJEPA = {
    "encoder.blocks.1.attn.qkv.weight": ("normal", 0.02),
    "encoder.blocks.1.mlp.fc2.weight": ("normal", 0.02),
    "encoder.patch_embed.proj.weight": ("normal", 0.02),
    "encoder.patch_embed.proj.bias": ("constant", 0.0),
    "encoder.norm.weight": ("constant", 1.0),
    "predictor.mask_token": ("normal", 0.02),
    "predictor.embed.weight": ("normal", 0.02),
    "predictor.proj.bias": ("constant", 0.0),
}


CUT = 0.5395603
"""Standard deviation of a normal that is cut at one."""
SIMMIM = {
    "encoder.blocks.1.attn.qkv.weight": ("truncated", 0.02),
    "encoder.blocks.1.attn.proj.weight": ("truncated", 0.02 / 4**0.5),
    "encoder.blocks.0.mlp.fc2.weight": ("truncated", 0.02 / 2**0.5),
    "encoder.blocks.1.attn.q_bias": ("constant", 0.0),
    "encoder.blocks.1.gamma_2": ("constant", 0.1),
    "encoder.rel_pos_bias.relative_position_bias_table": ("constant", 0.0),
    "encoder.cls_token": ("truncated", 0.02),
    "mask_token": ("truncated", 0.02),
    "encoder.patch_embed.proj.weight": ("truncated", 0.02),
    "encoder.patch_embed.proj.bias": ("constant", 0.0),
    "encoder.norm.weight": ("constant", 1.0),
    "head.weight": ("uniform", 192**-0.5),
    "head.bias": ("uniform", 192**-0.5),
}
TABLES = {"gmml": GMML, "mae": MAE, "capi": CAPI, "relvit": RELVIT, "ijepa": IJEPA, "simmim": SIMMIM}


@pytest.mark.parametrize(("name", "expected"), TABLES.items(), ids=TABLES)
def test_weights_have_the_distributions_of_the_table(name: str, expected: dict[str, tuple[str, float]]) -> None:
    state = build(job(OPTIONS[name], image_size=32, model=WIDE)).module.state_dict()
    for key, (kind, scale) in expected.items():
        values = state[key].flatten().double()
        if kind == "constant":
            assert values.unique().tolist() == [torch.tensor(scale).item()]
            continue
        spread = scale * {"uniform": 3**-0.5, "normal": 1.0, "truncated": CUT}[kind]
        margin = 4 * spread / len(values) ** 0.5
        assert abs(values.mean()) < margin, key
        assert len(values) < 10 or abs(values.std() - spread) < 2 * margin, key
        assert kind == "normal" or values.abs().max() <= scale


def test_an_unknown_method_is_refused_with_what_is_known() -> None:
    with pytest.raises(SpecError, match=r"'dino'; nothing installed has it; known are .*gmml, .*mae"):
        _builder("dino")


def test_a_users_package_adds_a_method_whose_teacher_begins_as_its_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(install(tmp_path)))
    setting = replace(Setting.of(job(OPTIONS["mae"])), options=plug_ins()[0](name="theirs"))  # type: ignore[arg-type]
    weights = initial_weights(blank(setting), 7)
    taught = {name.partition(".")[2]: value for name, value in weights.items() if name.startswith("teacher.")}
    assert taught
    assert all(torch.equal(value, weights[f"encoder.{name}"]) for name, value in taught.items())
    for name in [name for name in sys.modules if name.partition(".")[0] == "theirs"]:
        del sys.modules[name]


def test_activation_checkpointing_changes_no_bit() -> None:
    for name in METHODS:
        gradients = []
        for checkpointing in (False, True):
            method = build(job(OPTIONS[name], engine={"activation_checkpointing": checkpointing}))
            draws = method.draw(torch.arange(4), torch.device("cpu"))
            images = torch.linspace(-1, 1, 4 * method.views * 768).view(4, method.views, 3, 16, 16)
            method.loss(method.module, images, draws).groups.sum().backward()
            gradients.append([p.grad for p in method.module.parameters() if p.requires_grad])
        assert all(torch.equal(plain, again) for plain, again in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("options", "drop_path"),
    [
        ({"name": "gmml"}, 0.1),
        ({"name": "gmml", "preset": "paper", "fill": ["noise", "zeros"]}, 0.1),
        (OPTIONS["mae"], 0),
        (OPTIONS["ijepa"], 0),
        ({**OPTIONS["ijepa"], "masks": "padded", "min_keep": 4, "context_patches": 20, "cut": "group"}, 0),
        (OPTIONS["capi"], 0.2),
        (OPTIONS["simmim"], 0.1),
        (OPTIONS["conmim"], 0),
        ({**OPTIONS["relvit"], "permute": True}, 0.1),
    ],
    ids=str,
)
def test_nothing_waits_for_the_device(options: dict[str, object], drop_path: float) -> None:
    """On torch's meta device there are no values: whatever would read one back raises."""
    spec = job(options, image_size=32, model={"drop_path": drop_path})
    method, meta = blank(Setting.of(spec)), torch.device("meta")
    for part in method.module.modules():
        part._buffers = {name: b if b is None else b.to(meta) for name, b in part._buffers.items()}
    numbers = torch.arange(8, device=meta)
    images = torch.zeros(8, method.views, 3, 32, 32, dtype=torch.uint8, device=meta)
    clean = prepare(images, numbers, seed=0, augment=AUGMENTS["gmml"], normalise=NORMALISATIONS["imagenet"])
    losses = method.loss(method.module, clean, method.draw(numbers, meta))
    losses.groups.sum().backward()
    assert losses.groups.shape == (2,)
    with pytest.raises(RuntimeError):
        losses.groups.tolist()
