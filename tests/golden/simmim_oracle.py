"""SimMIM in numpy float64, one image and one pair of tokens at a time; shares no code with the method."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

State = Mapping[str, np.ndarray]
Model = Mapping[str, Any]
erf = np.vectorize(math.erf)


def norm(x: np.ndarray, state: State, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return (
        centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * state[f"{name}.weight"] + state[f"{name}.bias"]
    )


def bias(state: State, grid: int, head: int, query: int, key: int) -> float:
    """What is added to a logit; token 0 is the class token. A plain encoder has no table."""
    table = state.get("encoder.rel_pos_bias.relative_position_bias_table")
    if table is None:
        return 0.0
    if query == 0 or key == 0:
        return float(table[-1 if query == key else -3 if query == 0 else -2, head])
    (r, c), (other_r, other_c) = divmod(query - 1, grid), divmod(key - 1, grid)
    return float(table[(r - other_r + grid - 1) * (2 * grid - 1) + c - other_c + grid - 1, head])


def attention(x: np.ndarray, state: State, name: str, model: Model, places: Sequence[int] | None = None) -> np.ndarray:
    """Attention of a sequence; `places` says where each token stands where some patches are missing."""
    width, heads, grid = model["width"], model["heads"], model["image_size"] // model["patch_size"]
    size, at = width // heads, range(len(x)) if places is None else places
    if f"{name}.q_bias" in state:
        shift = np.concatenate([state[f"{name}.q_bias"], np.zeros(width), state[f"{name}.v_bias"]])
    else:
        shift = state[f"{name}.qkv.bias"]
    q, k, v = np.split(x @ state[f"{name}.qkv.weight"].T + shift, 3, axis=1)
    out = np.zeros_like(x)
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        for query in range(len(x)):
            logits = [q[query, part] @ k[key, part] / math.sqrt(size) for key in range(len(x))]
            logits = np.array([value + bias(state, grid, head, at[query], at[key]) for key, value in enumerate(logits)])
            weights = np.exp(logits - logits.max())
            out[query, part] = weights @ v[:, part] / weights.sum()
    return out @ state[f"{name}.proj.weight"].T + state[f"{name}.proj.bias"]


def mlp(x: np.ndarray, state: State, name: str) -> np.ndarray:
    hidden = x @ state[f"{name}.fc1.weight"].T + state[f"{name}.fc1.bias"]
    hidden = 0.5 * hidden * (1 + erf(hidden / math.sqrt(2)))
    return hidden @ state[f"{name}.fc2.weight"].T + state[f"{name}.fc2.bias"]


def encoded(
    image: np.ndarray, state: State, model: Model, mask: np.ndarray, drop: np.ndarray, *, final_norm: bool = True
) -> np.ndarray:
    """Tokens (1 + N, D) of an image (3, S, S) whose masked patches are the mask token."""
    p, grid = model["patch_size"], model["image_size"] // model["patch_size"]
    sequence = [state["encoder.cls_token"][0, 0]]
    for patch, hidden in enumerate(mask):
        row, column = divmod(patch, grid)
        pixels = image[:, row * p : (row + 1) * p, column * p : (column + 1) * p]
        seen = (state["encoder.patch_embed.proj.weight"] * pixels).sum((1, 2, 3)) + state[
            "encoder.patch_embed.proj.bias"
        ]
        sequence.append(state["mask_token"][0, 0] if hidden else seen)
    x = np.stack(sequence) + (state["encoder.pos_embed"][0] if "encoder.pos_embed" in state else 0)
    for layer in range(model["depth"]):
        name = f"encoder.blocks.{layer}"
        scale_1, scale_2 = state.get(f"{name}.gamma_1", 1.0), state.get(f"{name}.gamma_2", 1.0)
        x = x + drop[layer, 0] * scale_1 * attention(norm(x, state, f"{name}.norm1"), state, f"{name}.attn", model)
        x = x + drop[layer, 1] * scale_2 * mlp(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp")
    return norm(x, state, "encoder.norm") if final_norm else x


def reconstruction(
    image: np.ndarray, state: State, model: Model, mask: np.ndarray, drop: np.ndarray, *, final_norm: bool
) -> np.ndarray:
    """The predicted image (3, S, S)."""
    p, grid = model["patch_size"], model["image_size"] // model["patch_size"]
    x = encoded(image, state, model, mask, drop, final_norm=final_norm)
    out = np.empty_like(image)
    for patch in range(grid**2):
        row, column = divmod(patch, grid)
        values = state["head.weight"] @ x[1 + patch] + state["head.bias"]
        for index, value in enumerate(values):
            colour, place = divmod(index, p * p)
            out[colour, row * p + place // p, column * p + place % p] = value
    return out


def group_loss(reconstructed: np.ndarray, images: np.ndarray, masks: np.ndarray, patch: int) -> float:
    """Loss of one group: images (G, 3, S, S), masks (G, N)."""
    grid = images.shape[-1] // patch
    pixels = masks.reshape(-1, grid, grid).repeat(patch, 1).repeat(patch, 2)
    return float((np.abs(reconstructed - images) * pixels[:, None]).sum() / (pixels.sum() + 1e-5) / 3)
