"""I-JEPA's loss once more, from its formulas, in numpy and float64, an image and a target at a time; no code is shared.

`wrong` names a reading of the specification that is not meant, to show that the reference values tell it apart.
"""

import math
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float64]]
State = dict[str, Array]
erf = np.vectorize(math.erf)


def layer_norm(x: Array, weight: Array | float, bias: Array | float, eps: float) -> Array:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + eps) * weight + bias


def norm(x: Array, state: State, name: str) -> Array:
    return layer_norm(x, state[f"{name}.weight"], state[f"{name}.bias"], 1e-6)


def linear(x: Array, state: State, name: str) -> Array:
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def attend(x: Array, state: State, name: str, heads: int) -> Array:
    width = x.shape[1]
    size, made = width // heads, linear(x, state, f"{name}.qkv")
    seen = []
    for head in range(heads):
        q, k, v = (made[:, part * width + head * size : part * width + (head + 1) * size] for part in range(3))
        logits = q @ k.T / math.sqrt(size)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        seen.append(weights / weights.sum(1, keepdims=True) @ v)
    return linear(np.concatenate(seen, 1), state, f"{name}.proj")


def blocks(x: Array, state: State, name: str, heads: int) -> Array:
    for block in range(1 + max(int(key.split(".")[2]) for key in state if key.startswith(f"{name}.blocks."))):
        at = f"{name}.blocks.{block}"
        x = x + attend(norm(x, state, f"{at}.norm1"), state, f"{at}.attn", heads)
        hidden = linear(norm(x, state, f"{at}.norm2"), state, f"{at}.mlp.fc1")
        x = x + linear(0.5 * hidden * (1 + erf(hidden / math.sqrt(2))), state, f"{at}.mlp.fc2")
    return norm(x, state, f"{name}.norm")


def position(row: int, column: int, width: int, row_first: bool) -> list[float]:
    quarter = width // 4
    speeds = [10000 ** (-j / quarter) for j in range(quarter)]
    halves = [[math.sin(c * w) for w in speeds] + [math.cos(c * w) for w in speeds] for c in (column, row)]
    return halves[1] + halves[0] if row_first else halves[0] + halves[1]


def positions(grid: int, width: int, row_first: bool) -> Array:
    return np.array([position(i // grid, i % grid, width, row_first) for i in range(grid**2)])


def encode(image: Array, kept: list[int], state: State, spec: dict[str, Any], row_first: bool) -> Array:
    """Tokens of the patches kept (K, D); `state` is one encoder's, under `encoder`."""
    side = spec["patch_size"]
    grid, kernel = image.shape[1] // side, state["encoder.patch_embed.proj.weight"]
    cells = [image[:, i // grid * side :, i % grid * side :][:, :side, :side].ravel() for i in range(grid**2)]
    tokens = np.array(cells) @ kernel.reshape(len(kernel), -1).T + state["encoder.patch_embed.proj.bias"]
    tokens = tokens + positions(grid, tokens.shape[1], row_first)
    return blocks(tokens[kept], state, "encoder", spec["heads"])


def predict(
    context: Array, kept: list[int], asked: list[int], state: State, heads: int, grid: int, row_first: bool
) -> Array:
    embedded = linear(context, state, "predictor.embed")
    table = positions(grid, embedded.shape[1], row_first)
    masks = state["predictor.mask_token"][0] + table[asked]
    seen = blocks(np.concatenate([embedded + table[kept], masks]), state, "predictor", heads)
    return linear(seen[len(kept) :], state, "predictor.proj")


def cells_of(target: Any, grid: int) -> list[int]:
    top, left, height, width = (int(value) for value in target)
    return [row * grid + column for row in range(top, top + height) for column in range(left, left + width)]


def smooth_l1(e: Array) -> Array:
    return np.where(e < 1, e**2 / 2, e - 0.5)


def losses(
    spec: dict[str, Any], state: State, images: Array, draws: dict[str, Any], wrong: str | None = None
) -> list[float]:
    """Loss of each group of a specification as `gmml_cluster.methods.reference.verify` takes it."""
    model, method, group = spec["model"], spec["method"], spec["data"]["group"]
    grid = model["image_size"] // model["patch_size"]
    taught = {name.removeprefix("teacher."): value for name, value in state.items() if name.startswith("teacher.")}
    taught = state if wrong == "encoder as teacher" else taught
    row_first, heads = wrong == "row first", method.get("predictor_heads", model["heads"])
    eps = 1e-6 if wrong == "eps" else 1e-5
    found = []
    for first in range(0, len(images), group):
        kept = [np.flatnonzero(draws["context"][first + g]).tolist() for g in range(group)]
        if method.get("cut") == "group":
            kept = [each[: min(map(len, kept))] for each in kept]
        of_images: list[Array] = []
        for g in range(group):
            errors: list[Array] = []
            image, targets = images[first + g, 0], [cells_of(target, grid) for target in draws["target"][first + g]]
            if wrong == "context keeps targets":
                kept[g] = list(range(grid**2))
            teacher = encode(image, list(range(grid**2)), taught, model, row_first)
            if method.get("norm_target", True):
                teacher = layer_norm(teacher, 1.0, 0.0, eps)
            context = encode(image, kept[g], state, model, row_first)
            parts = [[cell for target in targets for cell in target]] if wrong == "one sequence" else targets
            counted: set[int] = set()
            for asked in parts:
                made = predict(context, kept[g], asked, state, heads, grid, row_first) - teacher[asked]
                rows = [i for i, cell in enumerate(asked) if wrong != "overlaps once" or cell not in counted]
                counted |= set(asked)
                errors.append(made[rows])
            of_images.append(np.abs(np.concatenate(errors)))
        of_images = of_images if wrong == "overlaps once" else [np.concatenate(of_images)]
        squared = method.get("loss") == "l2"
        found.append(float(np.mean([(e**2 if squared else smooth_l1(e)).mean() for e in of_images])))
    return found
