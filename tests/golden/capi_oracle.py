"""CAPI from its formulas in numpy float64, image by image; shares no code with the method."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Weights = dict[str, Array]


def unit(x: Array) -> Array:
    return x / np.sqrt((x * x).sum(-1, keepdims=True))


def rms_norm(x: Array, weight: Array | float = 1.0) -> Array:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * weight


def gelu(x: Array) -> Array:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def rope(x: Array, where: Array, halves: bool) -> Array:
    """One head's vectors (T, d) at (T, 2)."""
    d = x.shape[1]
    out = np.empty_like(x)
    frequencies = np.array([7 * 1e-4 ** (j / (d // 4 - 1)) for j in range(d // 4)])
    for t, (row, column) in enumerate(where):
        a, b = 2 * np.pi * frequencies * row, 2 * np.pi * frequencies * column
        if halves:
            for begin, angle in ((0, a), (d // 2, b)):
                one, two = x[t, begin : begin + d // 4], x[t, begin + d // 4 : begin + d // 2]
                out[t, begin : begin + d // 4] = one * np.cos(angle) - two * np.sin(angle)
                out[t, begin + d // 4 : begin + d // 2] = two * np.cos(angle) + one * np.sin(angle)
        else:
            a, b = np.tile(a, 2), np.tile(b, 2)
            one, two = x[t, : d // 2], x[t, d // 2 :]
            out[t, : d // 2] = one * np.cos(a) - two * np.sin(a)
            out[t, d // 2 :] = two * np.cos(b) + one * np.sin(b)
    return out


def attend(q: Array, k: Array, v: Array, at_q: Array, at_k: Array, spec: dict[str, Any]) -> Array:
    d = q.shape[1] // spec["heads"]
    heads = []
    for h in range(spec["heads"]):
        part = slice(h * d, (h + 1) * d)
        scores = rope(q[:, part], at_q, spec["halves"]) @ rope(k[:, part], at_k, spec["halves"]).T / math.sqrt(d)
        odds = np.exp(scores - scores.max(1, keepdims=True))
        heads.append(odds / odds.sum(1, keepdims=True) @ v[:, part])
    return np.concatenate(heads, 1)


def block(x: Array, w: Weights, name: str, drop: Array, attention: Any) -> Array:
    x = x + drop[0] * attention(rms_norm(x, w[f"{name}.norm1.weight"])) @ w[f"{name}.attn.proj.weight"].T
    hidden = gelu(rms_norm(x, w[f"{name}.norm2.weight"]) @ w[f"{name}.mlp.fc1.weight"].T)
    return x + drop[1] * hidden @ w[f"{name}.mlp.fc2.weight"].T


def cells(grid: int) -> Array:
    return np.array([[r / (grid - 1), c / (grid - 1)] for r in range(grid) for c in range(grid)])


def with_registers(seen: Array, registers: int, fitted: bool = True) -> Array:
    side = [i / (registers // 4) for i in range(registers // 4)]
    walk = [(t, 0) for t in side] + [(1, t) for t in side] + [(1 - t, 1) for t in side] + [(0, 1 - t) for t in side]
    low, high = (seen.min(0), seen.max(0)) if fitted else (np.zeros(2), np.ones(2))
    return np.concatenate([low + np.array(walk) * (high - low), seen])


def encode(image: Array, w: Weights, keep: NDArray[np.int64], drop: Array, spec: dict[str, Any]) -> tuple[Array, Array]:
    """Normed tokens of one image, registers first, and where they are."""
    x, at = stream(image, w, keep, drop, spec)
    return rms_norm(x), at


def stream(image: Array, w: Weights, keep: NDArray[np.int64], drop: Array, spec: dict[str, Any]) -> tuple[Array, Array]:
    """The same tokens as they come out of the last block."""
    p, prefix = spec["patch"], spec["prefix"]
    g = image.shape[1] // p
    kernel, bias = w[f"{prefix}encoder.patch_embed.proj.weight"], w[f"{prefix}encoder.patch_embed.proj.bias"]
    tiles = [image[:, p * (c // g) : p * (c // g + 1), p * (c % g) : p * (c % g + 1)] for c in keep]
    patches = np.array([(kernel * tile).sum((1, 2, 3)) + bias for tile in tiles])
    x = np.concatenate([w[f"{prefix}encoder.reg_token"][0], patches])
    at = with_registers(cells(g)[keep], len(x) - len(keep), spec.get("fitted", True))
    for i in range(spec["depth"]):
        name = f"{prefix}encoder.blocks.{i}"
        qkv = w[f"{name}.attn.qkv.weight"]

        def attention(x: Array, qkv: Array = qkv) -> Array:
            q, k, v = np.split(x @ qkv.T, 3, 1)
            return attend(q, k, v, at, at, spec)

        x = block(x, w, name, drop[i], attention)
    return x, at


def predict(memory: Array, at: Array, w: Weights, query: NDArray[np.int64], drop: Array, spec: dict[str, Any]) -> Array:
    grid = spec["grid"]
    x = np.repeat(w["mask_token"][0], len(query), 0)
    for i in range(spec["predictor_depth"]):
        name = f"predictor.blocks.{i}"
        q, kv = w[f"{name}.attn.q.weight"], w[f"{name}.attn.kv.weight"]

        def attention(x: Array, q: Array = q, kv: Array = kv) -> Array:
            k, v = np.split(memory @ kv.T, 2, 1)
            return attend(x @ q.T, k, v, cells(grid)[query], at, spec)

        x = block(x, w, name, drop[i], attention)
    return rms_norm(x)


def sinkhorn(logits: Array) -> Array:
    """Targets of one problem: (images, K) as released, with exponentials."""
    e = np.exp(logits / 0.06 - (logits / 0.06).max(0) + 50)
    for _ in range(3):
        e = e / (e.sum(0) + 1e-8)
        e = e / (e.sum(1, keepdims=True) + 1e-8)
    return e


def cross_entropy(logits: Array, target: Array) -> Array:
    scaled = logits / 0.12
    top = scaled.max(-1, keepdims=True)
    return (target * (top[..., 0] + np.log(np.exp(scaled - top).sum(-1)))[..., None] - target * scaled).sum(-1)


def cluster_logits(features: Array, w: Weights) -> Array:
    return unit(features) @ w["clusters.weight"].T + w["clusters.bias"]


def prediction_logits(features: Array, w: Weights) -> Array:
    v = w["head.weight_v"]
    rows = w["head.weight_g"][:, None] * v / (np.sqrt((v * v).sum(1, keepdims=True)) + 1e-8)
    return unit(features) @ rows.T


def group_losses(images: Array, w: Weights, draws: dict[str, Any], spec: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Clustering and prediction loss of each group."""
    count, group = len(images), spec["group"]
    ones = np.ones((count, 1, spec["depth"] + spec["predictor_depth"], 2))
    drop = draws.get("drop", ones)[:, 0]
    clustering, prediction = [], []
    everything = np.arange(draws["mask"].shape[1])
    for first in range(0, count, group):
        members = range(first, first + group)
        teacher = {**spec, "prefix": "teacher.", "fitted": True}
        features = [encode(images[b], w, everything, ones[b, 0], teacher)[0][spec["registers"] :] for b in members]
        logits = np.array([cluster_logits(f, w) for f in features])
        target = np.stack([sinkhorn(logits[:, n]) for n in everything], 1)
        clustering.append(cross_entropy(logits, target).mean())
        each = []
        for b in members:
            keep, query = np.flatnonzero(~draws["mask"][b]), np.flatnonzero(draws["predict"][b])
            memory, at = encode(images[b], w, keep, drop[b, : spec["depth"]], {**spec, "prefix": ""})
            made = predict(memory, at, w, query, drop[b, spec["depth"] :], spec)
            each.append(cross_entropy(prediction_logits(made, w), target[b - first][query]).mean())
        prediction.append(np.mean(each))
    return clustering, prediction
