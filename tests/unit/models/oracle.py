"""The same weights under the names that transformers gives them."""

from collections.abc import Mapping
from typing import Any

import pytest
from torch import Tensor

transformers = pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the encoder")

_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.o_proj",
    "norm2": "layernorm_after",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}


def blocks(state: Mapping[str, Tensor], ours: str, theirs: str) -> dict[str, Tensor]:
    """All blocks under `ours`, whose qkv is cut into three."""
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if not name.startswith(ours):
            continue
        number, _, inner = name.removeprefix(ours).partition(".")
        layer, kind = inner.rsplit(".", 1)
        if layer == "attn.qkv":
            for part, third in zip("qkv", value.chunk(3), strict=True):
                found[f"{theirs}{number}.attention.{part}_proj.{kind}"] = third
        else:
            found[f"{theirs}{number}.{_BLOCK[layer]}.{kind}"] = value
    return found


def encoder(state: Mapping[str, Tensor], positions: Tensor) -> dict[str, Tensor]:
    """Weights of ViTModel."""
    return {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": positions,
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
        **blocks(state, "blocks.", "layers."),
    }


def relative_encoder(state: Mapping[str, Tensor], mask_token: Tensor) -> dict[str, Tensor]:
    """Weights of BeitModel with one table of relative biases for all blocks."""
    found = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.mask_token": mask_token,
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "shared_position_bias.relative_position_bias_table": state["rel_pos_bias.relative_position_bias_table"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    vectors = {
        "attn.q_bias": "attention.q_proj.bias",
        "attn.v_bias": "attention.v_proj.bias",
        "gamma_1": "lambda_1",
        "gamma_2": "lambda_2",
    }
    plain = {name: value for name, value in state.items() if not name.endswith(tuple(vectors))}
    found |= blocks(plain, "blocks.", "layers.")
    for name, value in state.items():
        _, _, number_and_inner = name.partition("blocks.")
        number, _, inner = number_and_inner.partition(".")
        if inner in vectors:
            found[f"layers.{number}.{vectors[inner]}"] = value
    return found


def masked_autoencoder(state: Mapping[str, Tensor], positions: Tensor, decoder_positions: Tensor) -> dict[str, Tensor]:
    """Weights of ViTMAEForPreTraining."""
    vit = {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}
    return {
        **{f"vit.{name}": value for name, value in encoder(vit, positions).items()},
        **blocks(state, "decoder.blocks.", "decoder.decoder_layers."),
        "decoder.mask_token": state["decoder.mask_token"],
        "decoder.decoder_pos_embed": decoder_positions,
        **{
            f"decoder.decoder_{layer}.{kind}": state[f"decoder.{layer}.{kind}"]
            for layer in ("embed", "norm", "pred")
            for kind in ("weight", "bias")
        },
    }


def config(**changes: Any) -> dict[str, Any]:
    """Options of transformers' that make it compute what we do."""
    return {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "layer_norm_eps": 1e-6, **changes}
