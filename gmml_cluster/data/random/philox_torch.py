"""Draws by number on any device: `draws.py` in int64 tensor operations, equal bit for bit."""

from fractions import Fraction

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(key: tuple[int, int], counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, ...]:
    """The four words of Philox4x32-10 for each counter; all tensors hold 32-bit values in int64.

    Products wrap in int64; the mask takes off what wrapping did to the high half (STACK B6).
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = ((p1 >> 32) & _MASK) ^ c1 ^ k0, p1 & _MASK, ((p0 >> 32) & _MASK) ^ c3 ^ k1, p0 & _MASK
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return c0, c1, c2, c3


def words(seed: int, purpose: int, numbers: Tensor, count: int, stream: int = 0) -> Tensor:
    """The first `count` words of each number.

    Args:
        seed: below 2**32.
        purpose: what they are drawn for (METHODS 9.1).
        numbers: int64 (n,), not negative.
        count: words of each number.
        stream: the view, where nothing else is said.

    Returns:
        int64 (n, count) on the device of `numbers`.
    """
    blocks = torch.arange(-(-count // 4), device=numbers.device)
    low, high = (numbers & _MASK)[:, None], (numbers >> 32)[:, None]
    shape = (len(numbers), len(blocks))
    counter = (low.expand(shape), high.expand(shape), blocks.expand(shape), torch.full_like(low, stream).expand(shape))
    return torch.stack(philox((seed, int(purpose)), counter), -1).flatten(1)[:, :count]


def uniform(words: Tensor) -> Tensor:
    """Float32 in [0, 1), multiples of 2**-24."""
    return (words >> 8).to(torch.float32) * 2.0**-24


def uniform_plus(words: Tensor) -> Tensor:
    """Float32 in (0, 1], multiples of 2**-24."""
    return ((words >> 8) + 1).to(torch.float32) * 2.0**-24


def integer(words: Tensor, m: int) -> Tensor:
    """Integers 0 .. m - 1."""
    return (words * m) >> 32


def bernoulli(words: Tensor, q: Fraction | float) -> Tensor:
    """True with probability q; a float stands for the decimal it is written as."""
    q = Fraction(str(q)) if isinstance(q, float) else Fraction(q)
    return (words >> 8) < -(-q.numerator * 2**24 // q.denominator)
