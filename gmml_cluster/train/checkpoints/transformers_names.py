"""Checkpoints by transformers' names, brought to timm's.

Source: the files that transformers 4 and 5 write of `ViTModel`, `ViTMAEForPreTraining`, `BeitModel`, `IJepaModel` and
`Dinov2Model`, of classes with heads on them, and the names that version 5 has in memory.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

_PATCHES = "embeddings.patch_embeddings.projection.weight"
_BLOCK = re.compile(r"(?:encoder\.)?layers?\.(\d+)\.(.+)")
_DECODER_BLOCK = re.compile(r"decoder\.(?:decoder_layers|decoder_encoder\.layer)\.(\d+)\.(.+)")
_TIMM = {
    "embeddings.cls_token": "cls_token",
    "embeddings.mask_token": "mask_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.": "patch_embed.proj.",
    "encoder.relative_position_bias.": "rel_pos_bias.",
    "shared_position_bias.": "rel_pos_bias.",
    "layernorm.": "norm.",
    "pooler.layernorm.": "fc_norm.",
    "decoder.decoder_": "decoder_",
    "decoder.mask_token": "mask_token",
}
_TIMM_OF_BLOCK = {
    "layernorm_before.": "norm1.",
    "layernorm_after.": "norm2.",
    "attention.output.dense.": "attn.proj.",
    "attention.o_proj.": "attn.proj.",
    "intermediate.dense.": "mlp.fc1.",
    "output.dense.": "mlp.fc2.",
    "lambda_": "gamma_",
    "layer_scale1.lambda1": "gamma_1",
    "layer_scale2.lambda1": "gamma_2",
    "attention.attention.relative_position_bias.": "attn.",
    "relative_position_bias.": "attn.",
}
_QKV = re.compile(r"attention\.(?:attention\.)?(query|key|value|q_proj|k_proj|v_proj)\.(weight|bias)")
_PARTS = ("q", "k", "v")

Weights = Mapping[str, Tensor]


def by_timms_names(found: Weights) -> Weights:
    """The tensors of a checkpoint by timm's names where it has transformers', else as they are.

    Queries, keys and values become one matrix; where keys have no bias, those of the others stay apart, as BEiT's. What
    has no place in timm's encoder keeps its name.
    """
    prefixes = {name.removesuffix(_PATCHES) for name in found if name.endswith(_PATCHES)}
    if len(prefixes) != 1:
        return found
    (prefix,) = prefixes
    named = {name.removeprefix(prefix): value for name, value in found.items()}
    made: dict[str, Tensor] = {}
    parts: dict[str, dict[str, Tensor]] = {}
    for name, value in named.items():
        blocks, inner = _split(name)
        if match := _QKV.fullmatch(inner) if blocks else None:
            parts.setdefault(f"{blocks}attn.qkv.{match[2]}", {})[match[1][0]] = value
        else:
            made[blocks + _renamed(inner, _TIMM_OF_BLOCK if blocks else _TIMM)] = value
    for name, of in parts.items():
        made |= _joined(name, of)
    return made


def _split(name: str) -> tuple[str, str]:
    """What precedes a tensor's name within its block in timm's names, and that name; nothing for one of no block."""
    for pattern, ours in ((_BLOCK, "blocks"), (_DECODER_BLOCK, "decoder_blocks")):
        if match := pattern.fullmatch(name):
            return f"{ours}.{match[1]}.", match[2]
    return "", name


def _renamed(name: str, table: Mapping[str, str]) -> str:
    begin = next((theirs for theirs in table if name.startswith(theirs)), "")
    return table.get(begin, "") + name.removeprefix(begin)


def _joined(name: str, of: Weights) -> dict[str, Tensor]:
    if len(of) == len(_PARTS):
        return {name: torch.cat([of[part] for part in _PARTS])}
    return {name.replace("qkv.bias", f"{part}_bias"): value for part, value in of.items()}
