"""Draws that several methods share: drop path, orders of tokens (docs/reference/draws.md).

Dims: n images, V views, L blocks, N patches.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import constant, order, threshold, words


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
    return kept_nVL2 * scale_L1


@lru_cache(maxsize=16)
def _drop_table(rates: tuple[Fraction, ...], dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each block the least value of 24 bits that keeps a branch, and what a kept one is multiplied by (L, 1)."""
    least = constant([[threshold(rate)] for rate in rates], device)
    return least, constant(torch.tensor([[float(1 / (1 - rate))] for rate in rates], dtype=dtype), device)


def token_order(seed: int, numbers: Tensor, tokens: int, purpose: int = Purpose.TOKENS) -> Tensor:
    """A uniformly random order of tokens for each image (n, N)."""
    return order(words(seed, purpose, numbers, tokens))
