"""Random bits by sample number: Philox4x32-10 in numpy (docs/reference/draws.md).

`philox_torch.py` gives the same bits on any device.

A draw is a function of (seed, purpose, number, word, stream). Many numbers are drawn in one call: a call costs far
more than a draw.
"""

from enum import IntEnum
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]
Ints = NDArray[np.int64]

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)


class Purpose(IntEnum):
    """What a number is drawn for: the second half of Philox's key. 256 and above belong to plug-ins."""

    SPANS = 1
    WHOLE_EPOCH = 2
    HEAD = 3
    TAIL = 4
    LANE_WINDOW = 5
    PACK = 6
    INIT = 10
    CROP = 16
    FLIP = 17
    COLOUR = 18
    ERASE = 19
    AUGMENT = 20
    TOKENS = 32
    BLOCKS = 33
    RECTANGLES = 34
    ATTENTION = 35
    MEGA = 36
    MULTI_BLOCK = 37
    INVERSE_BLOCK = 38
    PREDICTED = 39
    CORRUPTION = 40
    NOISE = 41
    PATCH = 42
    PATCH_ORDER = 43
    DROP_PATH = 48
    MIXUP = 56


def philox(
    key: tuple[int | NDArray[np.uint64], int | NDArray[np.uint64]], counter: tuple[NDArray[np.uint64], ...]
) -> tuple[NDArray[np.uint64], ...]:
    """The four words of Philox4x32-10 for each counter.

    Args:
        key: two 32-bit words; arrays broadcast against the counters.
        counter: four uint64 arrays of 32-bit values that broadcast.

    Returns:
        Four uint64 arrays of 32-bit values.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = np.asarray(key[0], np.uint64), np.asarray(key[1], np.uint64)
    for r in range(10):
        r0, r1 = (k0 + np.uint64(r * _WEYL[0])) & _MASK, (k1 + np.uint64(r * _WEYL[1])) & _MASK
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (p1 >> _SHIFT) ^ c1 ^ r0, p1 & _MASK, (p0 >> _SHIFT) ^ c3 ^ r1, p0 & _MASK
    return c0, c1, c2, c3


def words(seed: int, purpose: int, numbers: Ints, count: int, stream: int = 0) -> Words:
    """The first `count` words of each number.

    Args:
        seed: below 2**32.
        purpose: what they are drawn for.
        numbers: int64 (n,), not negative.
        count: words of each number.
        stream: the view, where nothing else is said.

    Returns:
        uint32 (n, count).
    """
    whole = np.asarray(numbers, np.int64).astype(np.uint64)[:, None]
    blocks = np.arange(-(-count // 4), dtype=np.uint64)[None, :]
    counter = (whole & _MASK, whole >> _SHIFT, blocks, np.uint64(stream).reshape(1, 1))
    lanes = np.stack(np.broadcast_arrays(*philox((seed, int(purpose)), counter)), axis=-1)
    return lanes.reshape(len(whole), -1)[:, :count].astype(np.uint32)


def uniform(words: Words) -> NDArray[np.float32]:
    """Float32 in [0, 1), multiples of 2**-24."""
    return (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def uniform_plus(words: Words) -> NDArray[np.float32]:
    """Float32 in (0, 1], multiples of 2**-24."""
    return ((words >> np.uint32(8)) + np.uint32(1)).astype(np.float32) * np.float32(2.0**-24)


def integer(words: Words, m: int | Ints) -> Ints:
    """Integers 0 .. m - 1; an array of m broadcasts."""
    return ((words.astype(np.uint64) * np.asarray(m, np.uint64)) >> _SHIFT).astype(np.int64)


def bernoulli(words: Words, q: Fraction | float) -> NDArray[np.bool_]:
    """True with probability q, rounded up to a multiple of 2**-24; a float stands for the decimal it is written as."""
    exact = Fraction(str(q)) if isinstance(q, float) else Fraction(q)
    return (words >> np.uint32(8)) < -(-exact.numerator * 2**24 // exact.denominator)
