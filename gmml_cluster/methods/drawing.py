"""Draws that several methods share: normals, pixel noise, drop path, orders of tokens.

Dims: n images, V views, C channels, S side of an image, L blocks, N patches.
"""

import math
from fractions import Fraction

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import bernoulli, uniform, uniform_plus, words

WORDS_AT_ONCE = 1 << 22


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
    some = max(1, WORDS_AT_ONCE // count)
    noise = torch.empty(len(numbers), views, count, dtype=dtype, device=numbers.device)
    for first in range(0, len(numbers), some):
        for view in range(views):
            drawn = words(seed, Purpose.NOISE, numbers[first : first + some], count + count % 2, view)
            noise[first : first + some, view] = normals(drawn, dtype)[:, :count]
    return noise.view(-1, views, 3, size, size)


def drop_rates(greatest: float, depth: int) -> list[Fraction]:
    """Rate of each block: 0 at the first, rising linearly to `greatest`; METHODS 0.2."""
    return [Fraction(str(greatest)) * block / max(1, depth - 1) for block in range(depth)]


def drop_path(seed: int, numbers: Tensor, *, views: int, rates: list[Fraction], dtype: torch.dtype) -> Tensor:
    """What each branch of each block is multiplied by: 0 where it is dropped, else 1 / (1 - rate).

    Returns:
        (n, V, L, 2), attention before MLP.
    """
    streams = [words(seed, Purpose.DROP_PATH, numbers, 2 * len(rates), view) for view in range(views)]
    drawn_nVL2 = torch.stack(streams, 1).view(-1, views, len(rates), 2)
    kept = [~bernoulli(drawn_nVL2[:, :, block], rate) for block, rate in enumerate(rates)]
    return torch.stack([stays.to(dtype) * float(1 / (1 - rate)) for stays, rate in zip(kept, rates, strict=True)], 2)


def token_order(seed: int, numbers: Tensor, tokens: int) -> Tensor:
    """A uniformly random order of tokens for each image (n, N); keys are integers, so no two are equal."""
    keys = (words(seed, Purpose.TOKENS, numbers, tokens) << 16) + torch.arange(tokens, device=numbers.device)
    return keys.argsort(1)
