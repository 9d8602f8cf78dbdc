"""The encoder: an independent oracle, counts, and what its switches promise."""

import itertools
from typing import Any

import pytest
import torch

from gmml_cluster.models.vit import VisionTransformer, sincos_positions
from gmml_cluster.spec.job import SIZES, Model
from gmml_cluster.spec.methods.counts import encoder_parameters
from tests.fixtures.tolerances import assert_close_to_scale

SMALL = {"width": 64, "depth": 4, "heads": 2, "patch_size": 4, "image_size": 32}


def make(**changes: Any) -> VisionTransformer:
    """An encoder whose every parameter is drawn, so that none can hide behind a zero."""
    vit = VisionTransformer(**{**SMALL, **changes})
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1 + (parameter.dim() == 1) * 0.5)
    return vit


def images(count: int, size: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(
    "shape",
    [SMALL, {"width": 192, "depth": 12, "heads": 3, "patch_size": 16, "image_size": 224}],
    ids=["small", "Ti/16"],
)
def test_outputs_are_those_of_transformers(shape: dict[str, int]) -> None:
    from tests.unit.models import oracle

    vit = make(**shape)
    config = oracle.transformers.ViTConfig(
        **oracle.config(
            hidden_size=shape["width"],
            num_hidden_layers=shape["depth"],
            num_attention_heads=shape["heads"],
            intermediate_size=4 * shape["width"],
            patch_size=shape["patch_size"],
            image_size=shape["image_size"],
        )
    )
    theirs = oracle.transformers.ViTModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(oracle.encoder(vit.state_dict(), vit.pos_embed.detach()))
    pixels = images(2, shape["image_size"])
    with torch.no_grad():
        assert_close_to_scale(vit(pixels), theirs(pixels).last_hidden_state, ulps=64)


RELATIVE = {"positions": "relative", "key_bias": False, "layer_scale": True}


def test_outputs_of_a_relative_encoder_are_those_of_transformers() -> None:
    from tests.unit.models import oracle

    vit, token = make(**RELATIVE), torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(3))
    config = oracle.transformers.BeitConfig(
        **oracle.config(
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=256,
            patch_size=4,
            image_size=32,
            use_mask_token=True,
            use_absolute_position_embeddings=False,
            use_relative_position_bias=False,
            use_shared_relative_position_bias=True,
            use_mean_pooling=False,
        )
    )
    theirs = oracle.transformers.BeitModel(config, add_pooling_layer=False).eval()
    theirs.load_state_dict(oracle.relative_encoder(vit.state_dict(), token))
    pixels, mask = images(2), torch.arange(2 * 64).view(2, 64) % 5 < 2
    with torch.no_grad():
        expected = theirs(pixels, bool_masked_pos=mask).last_hidden_state
        assert_close_to_scale(vit(pixels, mask_BN=mask, mask_token=token), expected, ulps=64)


def test_relative_biases_follow_the_patches_that_are_kept() -> None:
    vit, pixels = make(**RELATIVE), images(2)
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    kept, plain = vit(pixels, keep_BK=order), vit(pixels)
    assert_close_to_scale(kept[:, 1:], plain[:, 1:].gather(1, order[..., None].expand(-1, -1, 64)), ulps=256)
    assert_close_to_scale(kept[:, 0], plain[:, 0], ulps=256)


def test_without_positions_moved_patches_give_moved_tokens() -> None:
    vit, pixels = make(positions="none"), images(1)
    halves = torch.cat([pixels[..., 16:], pixels[..., :16]], -1)
    plain, moved = (vit(p)[:, 1:].view(1, 8, 8, 64) for p in (pixels, halves))
    assert_close_to_scale(moved, plain.roll(4, 2), ulps=256)


@pytest.mark.parametrize(
    ("positions", "class_token"),
    [("relative", True), *itertools.product(["learned", "sincos", "none"], [True, False])],
)
@pytest.mark.parametrize("key_bias", [True, False])
@pytest.mark.parametrize("layer_scale", [True, False])
def test_counted_parameters_are_those_of_the_encoder(
    positions: str, key_bias: bool, layer_scale: bool, class_token: bool
) -> None:
    switches: dict[str, Any] = {"key_bias": key_bias, "layer_scale": layer_scale, "class_token": class_token}
    model = Model(width=64, depth=4, heads=2, patch_size=4)
    with torch.device("meta"):
        vit = VisionTransformer(**SMALL, positions=positions, **switches)
    counted = encoder_parameters(model, 64, positions="none" if positions == "sincos" else positions, **switches)
    assert sum(parameter.numel() for parameter in vit.parameters()) == counted


@pytest.mark.parametrize(
    ("size", "image", "patch", "count"),
    [
        ("tiny", 224, None, 5_524_416),
        ("small", 224, None, 21_665_664),
        ("base", 224, None, 85_798_656),
        ("large", 224, None, 303_301_632),
        ("huge", 224, None, 630_764_800),
        ("tiny", 32, 4, 5_360_832),
        ("tiny", 32, 2, 5_390_784),
        ("small", 32, 4, 21_338_496),
    ],
)
def test_parameters_are_as_many_as_the_table_says(size: str, image: int, patch: int | None, count: int) -> None:
    shape = SIZES[size] | ({} if patch is None else {"patch_size": patch})
    with torch.device("meta"):
        vit = VisionTransformer(image_size=image, **shape)
    assert sum(parameter.numel() for parameter in vit.parameters()) == count


def test_small_has_150_tensors_and_no_buffers() -> None:
    with torch.device("meta"):
        vit = VisionTransformer(image_size=224, **SIZES["small"])
    assert len(list(vit.parameters())) == 150
    assert not list(vit.buffers())


def test_sincos_codes_the_column_first() -> None:
    table = sincos_positions(16, 3)[0]
    assert not table[0].any()
    below, right = table[1 + 3], table[1 + 1]
    assert below[:8].tolist() == [0] * 4 + [1] * 4
    assert float(below[8]) == pytest.approx(0.8414709848)
    assert torch.equal(right, below.roll(8))
    assert float(sincos_positions(768, 14)[0, 57].norm()) == pytest.approx(19.596, rel=3e-5)


def test_sincos_positions_are_no_parameters_and_no_state() -> None:
    vit = make(positions="sincos")
    assert "pos_embed" not in dict(vit.named_parameters()) | vit.state_dict()


def test_taps_average_block_outputs_before_the_one_norm() -> None:
    vit, pixels = make(), images(2)
    seen: list[torch.Tensor] = []
    hooks = [block.register_forward_hook(lambda _, __, output: seen.append(output)) for block in vit.blocks]
    vit(pixels)
    [hook.remove() for hook in hooks]
    torch.testing.assert_close(vit(pixels, taps=(2, 3, 4)), vit.norm((seen[1] + seen[2] + seen[3]) / 3))


def test_keeping_all_patches_in_another_order_moves_nothing_but_their_positions() -> None:
    vit, pixels = make(), images(2)
    order = torch.stack([torch.randperm(64, generator=torch.Generator().manual_seed(s)) for s in (3, 4)])
    kept, plain = vit(pixels, keep_BK=order), vit(pixels)
    assert_close_to_scale(kept[:, 1:], plain[:, 1:].gather(1, order[..., None].expand(-1, -1, 64)), ulps=256)
    assert_close_to_scale(kept[:, 0], plain[:, 0], ulps=256)


def test_a_dropped_branch_contributes_nothing() -> None:
    vit, pixels = make(), images(2)
    drop = torch.ones(2, 4, 2)
    assert torch.equal(vit(pixels, drop_BL2=drop), vit(pixels))
    drop[0, 2] = 0
    without = make()
    without.load_state_dict(vit.state_dict())
    del without.blocks[2]
    dropped = vit(pixels, drop_BL2=drop)
    assert_close_to_scale(dropped[0], without(pixels)[0], ulps=64)
    assert_close_to_scale(dropped[1], vit(pixels)[1], ulps=64)


@pytest.mark.parametrize("switches", [{}, RELATIVE])
def test_activation_checkpointing_changes_no_bit(switches: dict[str, Any]) -> None:
    gradients = []
    for checkpointing in (False, True):
        vit = make(checkpointing=checkpointing, **switches)
        vit(images(2), drop_BL2=torch.full((2, 4, 2), 1.1), taps=(2, 4)).square().sum().backward()
        gradients.append([parameter.grad for parameter in vit.parameters()])
    for plain, again in zip(*gradients, strict=True):
        assert torch.equal(plain, again)


def test_computes_in_float64() -> None:
    vit = make(positions="sincos").double()
    assert vit(images(1).double()).dtype == torch.float64


@pytest.mark.parametrize("positions", ["learned", "sincos"])
def test_without_a_class_token_the_patches_come_alone(positions: str) -> None:
    vit = make(positions=positions, class_token=False)
    assert vit.prefix_tokens == 0
    assert "cls_token" not in vit.state_dict()
    assert vit.pos_embed.shape == (1, 64, 64)
    assert vit(images(2)).shape == (2, 64, 64)
    if positions == "sincos":
        assert torch.equal(vit.pos_embed, sincos_positions(64, 8)[:, 1:])


@pytest.mark.parametrize("switches", [{}, {"class_token": False}, RELATIVE])
def test_tokens_that_fill_a_sequence_change_nothing(switches: dict[str, Any]) -> None:
    vit, pixels = make(**switches), images(2)
    keep = torch.tensor([[3, 9, 20, 41], [0, 7, 8, 63]])
    filled, real = torch.cat([keep, torch.tensor([[0, 5], [1, 1]])], 1), torch.arange(6).expand(2, 6) < 4
    long, short = vit(pixels, keep_BK=filled, real_BK=real), vit(pixels, keep_BK=keep)
    assert_close_to_scale(long[:, : short.shape[1]], short, ulps=64)
