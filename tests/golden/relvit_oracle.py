"""RelViT in numpy float64, one image and one pair of patches at a time; shares no code with the method."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

State = Mapping[str, np.ndarray]
Model = Mapping[str, Any]
EPS = 1e-6
erf = np.vectorize(math.erf)


def norm(x: np.ndarray, state: State, name: str) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + EPS)
    return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]


def linear(x: np.ndarray, state: State, name: str) -> np.ndarray:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attention(x: np.ndarray, state: State, name: str, heads: int) -> np.ndarray:
    tokens, width = x.shape
    q, k, v = np.split(linear(x, state, f"{name}.qkv"), 3, axis=1)
    out, size = np.empty_like(x), width // heads
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        logits = q[:, part] @ k[:, part].T / math.sqrt(size)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        out[:, part] = weights / weights.sum(1, keepdims=True) @ v[:, part]
    assert tokens == len(out)
    return linear(out, state, f"{name}.proj")


def mlp(x: np.ndarray, state: State, name: str) -> np.ndarray:
    hidden = linear(x, state, f"{name}.fc1")
    return linear(0.5 * hidden * (1 + erf(hidden / math.sqrt(2))), state, f"{name}.fc2")


def tokens_of(image: np.ndarray, state: State, model: Model, drop: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Normed tokens of an image (3, S, S) whose place t shows patch `order[t]`."""
    p, grid = model["patch_size"], model["image_size"] // model["patch_size"]
    kernel = state["encoder.patch_embed.proj.weight"].reshape(model["width"], -1)
    sequence = [state["encoder.cls_token"][0, 0]]
    for patch in order:
        row, column = divmod(int(patch), grid)
        pixels = image[:, row * p : (row + 1) * p, column * p : (column + 1) * p]
        sequence.append(kernel @ pixels.ravel() + state["encoder.patch_embed.proj.bias"])
    x = np.stack(sequence)
    if "encoder.pos_embed" in state:
        x = x + state["encoder.pos_embed"][0]
    for layer in range(model["depth"]):
        name = f"encoder.blocks.{layer}"
        branch = attention(norm(x, state, f"{name}.norm1"), state, f"{name}.attn", model["heads"])
        x = x + drop[layer, 0] * branch
        x = x + drop[layer, 1] * mlp(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp")
    return norm(x, state, "encoder.norm")


def relation(a: int, b: int, grid: int) -> int:
    """Where patch a lies as seen from patch b."""
    (row_a, column_a), (row_b, column_b) = divmod(a, grid), divmod(b, grid)
    row = "up" if row_a < row_b else "down" if row_a > row_b else "centre"
    column = "left" if column_a < column_b else "right" if column_a > column_b else "centre"
    return ("up", "centre", "down").index(row) * 3 + ("left", "centre", "right").index(column)


def distance(a: int, b: int, grid: int) -> float:
    (row_a, column_a), (row_b, column_b) = divmod(a, grid), divmod(b, grid)
    return 2 * math.dist((row_a, column_a), (row_b, column_b)) / math.dist((0, 0), (grid - 1, grid - 1)) - 1


def raw_angle(a: int, b: int, grid: int) -> float:
    """In half turns."""
    if a == b:
        return 0.0
    (row_a, column_a), (row_b, column_b) = divmod(a, grid), divmod(b, grid)
    first, second = (column_a + grid / 2, row_a + grid / 2), (column_b + grid / 2, row_b + grid / 2)
    product = first[0] * second[0] + first[1] * second[1]
    return math.acos(product / (math.hypot(*first) * math.hypot(*second) + 1e-4)) / math.pi


def angle_table(grid: int) -> np.ndarray:
    raw = np.array([[raw_angle(a, b, grid) for b in range(grid**2)] for a in range(grid**2)])
    return 2 * raw / raw.max() - 1


def cross_entropy(logits: np.ndarray, target: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[target])


def image_loss(
    image: np.ndarray, state: State, model: Model, options: Mapping[str, Any], drop: np.ndarray, order: np.ndarray
) -> dict[str, float]:
    """Loss of each task that is on."""
    sequence = tokens_of(image, state, model, drop, order)
    grid = model["image_size"] // model["patch_size"]
    return task_losses(sequence[1:], sequence[0], state, options, order, grid)


def task_losses(
    patches: np.ndarray,
    class_token: np.ndarray,
    state: State,
    options: Mapping[str, Any],
    places: np.ndarray,
    grid: int,
) -> dict[str, float]:
    """Loss of each task that is on, of normed tokens of patches (K, D) that lie at `places` in their image."""
    width = patches.shape[1]
    z = patches + (class_token if options.get("add_class_token") else 0)
    pairs = [(a, b) for a in range(len(z)) for b in range(len(z))]
    losses: dict[str, float] = {}
    if options.get("relations", True):
        e = options.get("relation_width") or max(1, width // 9)
        q, k = (state[f"relations.{part}.weight"].reshape(9, e, width) for part in ("query", "key"))
        errors = []
        for a, b in pairs:
            logits = np.array([(q[c] @ z[a]) @ (k[c] @ z[b]) / math.sqrt(e) for c in range(9)])
            errors.append(cross_entropy(logits, relation(int(places[a]), int(places[b]), grid)))
        losses["relations"] = float(np.mean(errors))
    if options.get("positions", True):
        logits = linear(z, state, "positions")
        losses["positions"] = float(np.mean([cross_entropy(logits[t], int(places[t])) for t in range(len(z))]))
    for task in ("distances", "angles"):
        if options.get(task):
            angle = angle_table(grid)
            q, k = (z @ state[f"{task}.{part}.weight"].T for part in ("query", "key"))
            errors = []
            for a, b in pairs:
                i, j = int(places[a]), int(places[b])
                target = distance(i, j, grid) if task == "distances" else angle[i, j]
                errors.append((q[a] @ k[b] / math.sqrt(width) - target) ** 2)
            losses[task] = float(np.mean(errors))
    return losses
