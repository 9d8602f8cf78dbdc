"""Permutations at seed 7 as docs/reference/order-of-samples.md has them: a change here changes every run's order."""

import numpy as np
import pytest

from gmml_cluster.data.random.feistel import permutation_key, permute
from gmml_cluster.data.random.philox import Purpose

SPANS = (Purpose.SPANS, (0, 0, 0, 0), "59c2c148 f7fde228")
WINDOW = (Purpose.LANE_WINDOW, (3, 1, 2, 9), "f8161bee 94f6cfd5")

GOLDEN = [
    (SPANS, 5, [3, 1, 0, 2, 4]),
    (SPANS, 100, [13, 56, 15, 87, 28, 14, 25, 30]),
    (SPANS, 65537, [42082, 32988, 7155, 17807]),
    (WINDOW, 5, [1, 4, 2, 3, 0]),
    (WINDOW, 100, [0, 30, 60, 98, 12, 58, 31, 59]),
    (WINDOW, 65537, [65054, 23347, 24731, 51164]),
]


@pytest.mark.parametrize(("case", "size", "items"), GOLDEN)
def test_permutation_is_the_documented_one(case, size, items):
    purpose, counter, key_hex = case
    key = permutation_key(7, purpose, tuple(np.array([part]) for part in counter))
    assert " ".join(f"{int(half[0]):08x}" for half in key) == key_hex
    whole = permute(key, np.full(size, size), np.arange(size))
    assert whole[: len(items)].tolist() == items
    assert np.array_equal(np.sort(whole), np.arange(size))
