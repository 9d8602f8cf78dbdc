"""Permutations by arithmetic: a keyed Feistel network with cycle walking (docs/reference/order-of-samples.md).

One position is mapped without the others, so no table of a corpus' samples is ever in memory. In numpy that is
six times ten rounds of ten array operations; the optional package in `native/` does the same without arrays.
"""

import logging
from functools import cache

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.native import Native, native_function
from gmml_cluster.data.random.philox import Ints, philox

_ROUNDS = 6
_AT_ONCE = 1 << 13
"""Positions whose words fit a processor's cache together: several times quicker than all of a million at once."""
_ZERO = np.zeros(1, np.uint64)
Key = tuple[NDArray[np.uint64], NDArray[np.uint64]]
_log = logging.getLogger(__name__)


def permutation_key(seed: int, purpose: int | Ints, counter: tuple[Ints, Ints, Ints, Ints]) -> Key:
    """The key of each permutation: words 0 and 1 of Philox at (epoch, corpus, lane in the corpus, window)."""
    k0, k1, _, _ = philox(
        (seed, np.asarray(purpose).astype(np.uint64)), tuple(part.astype(np.uint64) for part in counter)
    )
    return k0, k1


def permute(key: Key, sizes: Ints, positions: Ints) -> Ints:
    """The item at each position of its permutation.

    Args:
        key: of each permutation; arrays of (n,) or of one element.
        sizes: int64 (n,), items of each permutation, at least 1.
        positions: int64 (n,), 0 .. size - 1.

    Returns:
        int64 (n,), 0 .. size - 1; distinct for distinct positions under one key and size.
    """
    positions = np.asarray(positions, np.int64)
    k0, k1 = (np.broadcast_to(half, positions.shape) for half in key)
    limits = np.broadcast_to(np.asarray(sizes, np.int64), positions.shape).astype(np.uint64)
    native = native_permute()
    if native is None:
        return _in_parts((k0, k1), limits, positions)
    items = positions.copy()
    native(np.ascontiguousarray(k0), np.ascontiguousarray(k1), limits, items)
    return items


@cache
def native_permute() -> Native | None:
    """`permute` of the package in `native/`; None where it is not there or gives other items than numpy."""
    native = native_function("permute")
    if native is None:
        return None
    sizes = np.array([1, 2, 3, 1000, 2**20, 2**40 + 1] * 4, np.uint64)
    positions = np.arange(len(sizes), dtype=np.int64) % sizes.astype(np.int64)
    key = permutation_key(7, 5, (positions, positions, positions + 1, positions + 2))
    items = positions.copy()
    native(*key, sizes, items)
    if not np.array_equal(items, _in_parts(key, sizes, positions)):
        _log.warning("gmml_native permutes otherwise than numpy and is not used")
        return None
    return native


def _in_parts(key: Key, limits: NDArray[np.uint64], positions: Ints) -> Ints:
    """`permute` in numpy."""
    items = np.empty_like(positions)
    for start in range(0, len(positions), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        items[part] = _permuted((key[0][part], key[1][part]), limits[part], positions[part])
    return items


def _permuted(key: Key, limits: NDArray[np.uint64], positions: Ints) -> Ints:
    k0, k1 = key
    half_bits = (_bit_lengths(limits - np.uint64(1)) + np.uint64(1)) >> np.uint64(1)
    items = positions.astype(np.uint64)
    walking = np.flatnonzero(limits > np.uint64(1))
    while walking.size:
        items[walking] = _feistel((k0[walking], k1[walking]), half_bits[walking], items[walking])
        walking = walking[items[walking] >= limits[walking]]
    return items.astype(np.int64)


def _bit_lengths(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Bits of each value below 2**53."""
    return np.frexp(values.astype(np.float64))[1].astype(np.uint64)


def _feistel(key: Key, half_bits: NDArray[np.uint64], items: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half_bits) - np.uint64(1)
    high, low = items >> half_bits, items & mask
    for r in range(_ROUNDS):
        drawn, _, _, _ = philox(key, (low, np.full_like(low, r), _ZERO, _ZERO))
        high, low = low, high ^ (drawn & mask)
    return (high << half_bits) | low
