"""The encoder in numpy, one image at a time: shares no code with `models/vit.py`."""

from typing import Any

import numpy as np
from scipy.special import erf

Arrays = dict[str, np.ndarray]


def norm(x: Any, w: Arrays, name: str) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(x: Any, w: Arrays, name: str) -> Any:
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def attend(x: Any, w: Arrays, name: str, heads: int) -> Any:
    width = x.shape[1]
    q, k, v = (linear(x, w, f"{name}.qkv")[:, i * width : (i + 1) * width] for i in range(3))
    seen = []
    for head in range(heads):
        own = slice(head * width // heads, (head + 1) * width // heads)
        scores = q[:, own] @ k[:, own].T * (width // heads) ** -0.5
        shares = np.exp(scores - scores.max(1, keepdims=True))
        seen.append(shares / shares.sum(1, keepdims=True) @ v[:, own])
    return linear(np.concatenate(seen, 1), w, f"{name}.proj")


def tokens(w: Arrays, image: Any, drop: Any, *, heads: int, patch: int) -> Any:
    """Tokens of an image (3, S, S) before the final norm, class token first; `drop` (L, 2) or None."""
    cells = [
        (image[:, y : y + patch, x : x + patch] * w["encoder.patch_embed.proj.weight"]).sum((1, 2, 3))
        for y in range(0, image.shape[1], patch)
        for x in range(0, image.shape[2], patch)
    ]
    patches = np.array(cells) + w["encoder.patch_embed.proj.bias"]
    x = np.concatenate([w["encoder.cls_token"][0], patches]) + w["encoder.pos_embed"][0]
    blocks = len({name.split(".")[2] for name in w if name.startswith("encoder.blocks.")})
    drop = np.ones((blocks, 2)) if drop is None else drop
    for block, factors in enumerate(drop):
        at = f"encoder.blocks.{block}"
        x = x + factors[0] * attend(norm(x, w, f"{at}.norm1"), w, f"{at}.attn", heads)
        hidden = linear(norm(x, w, f"{at}.norm2"), w, f"{at}.mlp.fc1")
        x = x + factors[1] * linear(hidden * (1 + erf(hidden / 2**0.5)) / 2, w, f"{at}.mlp.fc2")
    return x


def encode(w: Arrays, image: Any, drop: Any, *, heads: int, patch: int, pool: str) -> Any:
    """The feature (D,): the normed class token, or the normed mean of the patch tokens."""
    x = tokens(w, image, drop, heads=heads, patch=patch)
    return norm(x[0] if pool == "class" else x[1:].mean(0), w, "encoder.norm")
