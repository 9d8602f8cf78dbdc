"""What each target library calls the tensors of an encoder, and how it is told the encoder's shape.

Sources: the parameters of timm 1.0's `VisionTransformer` and `Beit` and of transformers' `ViTModel`, `BeitModel` and
`IJepaModel`, whose files have the names of transformers 4, which version 5 reads and writes too.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.rope_vit import RopeEncoder
from gmml_cluster.models.vit import EPS, VisionTransformer
from gmml_cluster.spec.job import Model

Weights = dict[str, Tensor]
Family = Literal["vit", "beit", "ijepa"]
"""Plain with a class token, relative positions, plain without a class token."""

_TRANSFORMERS_BLOCK = {
    "norm1": "layernorm_before",
    "attn.proj": "attention.output.dense",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}
_TRANSFORMERS_VECTORS = {
    "attn.q_bias": "attention.attention.query.bias",
    "attn.v_bias": "attention.attention.value.bias",
    "gamma_1": "lambda_1",
    "gamma_2": "lambda_2",
}
_TRANSFORMERS_REST = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "rel_pos_bias.relative_position_bias_table": "encoder.relative_position_bias.relative_position_bias_table",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}
TRANSFORMERS_CLASS = {"vit": "ViTModel", "beit": "BeitModel", "ijepa": "IJepaModel"}


def family_of(encoder: AnyEncoder) -> Family:
    """Which of the libraries' models computes what the encoder does.

    Raises:
        CheckpointError: none does.
    """
    if isinstance(encoder, RopeEncoder):
        has = "rotary positions on registers too, and RMS norms without biases, the last without weight"
        problem = f"no model there computes this encoder: it has {has}"
        raise CheckpointError(Fault("--to", problem, "write it by --to onnx or --to safetensors"))
    if encoder.rel_pos_bias is not None:
        return "beit"
    return "vit" if encoder.prefix_tokens else "ijepa"


def plain_weights(encoder: AnyEncoder) -> Weights:
    """The encoder's tensors and fixed positions; zeros where it has none, as the libraries' models need some."""
    weights = {name: value.detach().contiguous() for name, value in encoder.state_dict().items()}
    if isinstance(encoder, VisionTransformer) and encoder.rel_pos_bias is None and "pos_embed" not in weights:
        shape = (1, encoder.prefix_tokens + encoder.grid**2, len(weights["norm.weight"]))
        weights["pos_embed"] = torch.zeros(shape) if encoder.pos_embed is None else encoder.pos_embed.float()
    return weights


def transformers_weights(encoder: AnyEncoder) -> Weights:
    """The same under the names of transformers' files."""
    found: Weights = {}
    for name, value in plain_weights(encoder).items():
        if not name.startswith("blocks."):
            found[_TRANSFORMERS_REST[name]] = value
            continue
        _, number, inner = name.split(".", 2)
        found |= {f"encoder.layer.{number}.{theirs}": part for theirs, part in _of_block(inner, value).items()}
    return found


def _of_block(inner: str, value: Tensor) -> Weights:
    layer, kind = inner.rsplit(".", 1) if "." in inner else (inner, "")
    if layer == "attn.qkv":
        thirds = zip(("query", "key", "value"), value.chunk(3), strict=True)
        return {f"attention.attention.{part}.{kind}": third.contiguous() for part, third in thirds}
    if inner in _TRANSFORMERS_VECTORS:
        return {_TRANSFORMERS_VECTORS[inner]: value}
    return {f"{_TRANSFORMERS_BLOCK[layer]}.{kind}": value}


def transformers_config(encoder: AnyEncoder, model: Model, image_size: int) -> dict[str, Any]:
    """`config.json` of transformers."""
    family = family_of(encoder)
    shape = {
        "architectures": [TRANSFORMERS_CLASS[family]],
        "model_type": family,
        "hidden_size": model.width,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.heads,
        "intermediate_size": int(model.width * model.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": EPS,
        "patch_size": model.patch_size,
        "image_size": image_size,
        "num_channels": 3,
        "qkv_bias": True,
    }
    if family != "beit":
        return shape
    positions = {
        "use_absolute_position_embeddings": False,
        "use_relative_position_bias": False,
        "use_shared_relative_position_bias": True,
    }
    return {**shape, **positions, "use_mask_token": False, "layer_scale_init_value": 0.1, "use_mean_pooling": False}


def timm_arguments(encoder: AnyEncoder, model: Model, image_size: int) -> tuple[str, dict[str, Any]]:
    """Name of an architecture of timm, and the arguments of `create_model` that give it the encoder's shape."""
    shape = {
        "img_size": image_size,
        "patch_size": model.patch_size,
        "embed_dim": model.width,
        "depth": model.depth,
        "num_heads": model.heads,
        "mlp_ratio": model.mlp_ratio,
        "num_classes": 0,
    }
    match family_of(encoder):
        case "vit":
            return "vit_base_patch16_224", shape
        case "ijepa":
            return "vit_base_patch16_224", {**shape, "class_token": False, "global_pool": "avg", "fc_norm": False}
        case "beit":
            relative = {"use_abs_pos_emb": False, "use_rel_pos_bias": False, "use_shared_rel_pos_bias": True}
            return "beit_base_patch16_224", {**shape, **relative, "init_values": 0.1, "global_pool": "token"}
