"""Draws that several methods share: normals, pixel noise, drop path, orders of tokens (docs/reference/draws.md).

Dims: n images, V views, C channels, S side of an image, L blocks, N patches.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import constant, order, threshold, uniform, uniform_plus, view_words, words

_WORDS_AT_ONCE = {"cpu": 1 << 22, "gpu": 1 << 24}
"""On a CPU what a cache holds; on a GPU what bounds the memory to some 0.5 GB, in as few launches as that allows."""


def normals(words_n2k: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normals by Box-Muller, as many as words; words 2k and 2k + 1 make normals 2k and 2k + 1."""
    pairs = words_n2k.reshape(*words_n2k.shape[:-1], -1, 2)
    radius = (-2 * uniform_plus(pairs[..., 0]).to(dtype).log()).sqrt()
    angle = uniform(pairs[..., 1]).to(dtype) * (2 * math.pi)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1).flatten(-2)


def pixel_noise(seed: int, numbers: Tensor, *, views: int, size: int, dtype: torch.dtype) -> Tensor:
    """Standard normals for each pixel and channel, drawn a few images at a time to bound the memory.

    Returns:
        (n, V, 3, S, S).
    """
    count = 3 * size * size
    at_once = max(1, _WORDS_AT_ONCE["cpu" if numbers.device.type == "cpu" else "gpu"] // (count * views))
    parts = [_noise(seed, some, views, count, dtype) for some in torch.split(numbers, at_once)]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).reshape(-1, views, 3, size, size)


def _noise(seed: int, numbers: Tensor, views: int, count: int, dtype: torch.dtype) -> Tensor:
    drawn = view_words(seed, numbers, views, {Purpose.NOISE: count + count % 2})[Purpose.NOISE]
    return normals(drawn, dtype)[:, :, :count]


def drop_rates(greatest: float, depth: int) -> list[Fraction]:
    """Rate of each block: 0 at the first, rising linearly to `greatest`."""
    return [Fraction(str(greatest)) * block / max(1, depth - 1) for block in range(depth)]


def drop_path(words_nVM: Tensor, rates: Sequence[Fraction], dtype: torch.dtype) -> Tensor:
    """What each branch of each block is multiplied by: 0 where it is dropped, else 1 / (1 - rate).

    Args:
        words_nVM: 2 L words of purpose `DROP_PATH` a view.
        rates: rate of each block.
        dtype: of the result.

    Returns:
        (n, V, L, 2), attention before MLP.
    """
    least_L1, scale_L1 = _drop_table(tuple(rates), dtype, words_nVM.device)
    kept_nVL2 = (words_nVM.reshape(*words_nVM.shape[:2], -1, 2) >> 8) >= least_L1
    return torch.where(kept_nVL2, scale_L1, 0.0)


@lru_cache(maxsize=16)
def _drop_table(rates: tuple[Fraction, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each block the least value of 24 bits that keeps a branch, and what a kept one is multiplied by (L, 1)."""
    least = constant([[threshold(rate)] for rate in rates], device)
    return least, constant(torch.tensor([[float(1 / (1 - rate))] for rate in rates], dtype=dtype), device)


def token_order(seed: int, numbers: Tensor, tokens: int, purpose: int = Purpose.TOKENS) -> Tensor:
    """A uniformly random order of tokens for each image (n, N)."""
    return order(words(seed, purpose, numbers, tokens))
