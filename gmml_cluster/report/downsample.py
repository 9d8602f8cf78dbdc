"""Series made short enough to draw, without hiding a spike: of each bucket the least, the mean and the greatest value.

Dims: N values of a series, K buckets.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]


@dataclass(frozen=True)
class Band:
    """What is drawn of a series, each (K,); NaN where a bucket has no finite value.

    Attributes:
        least, greatest: of the values themselves, so that no extreme of the series is lost.
        mean: between the two.
    """

    least: Floats
    mean: Floats
    greatest: Floats


def bucket_starts(values: int, most: int) -> Indices:
    """Index of the first value of each bucket; sizes differ by at most one, and no bucket is empty.

    Args:
        values: N.
        most: buckets at most, K <= most.
    """
    count = min(values, most)
    return (np.arange(count, dtype=np.intp) * values) // count if count else np.zeros(0, np.intp)


def reduce(values_N: Floats, starts_K: Indices) -> Band:
    """The band of a series.

    Args:
        values_N: finite, or NaN where there is no value.
        starts_K: as `bucket_starts` gives them.
    """
    if not len(starts_K):
        return Band(*(np.zeros(0) for _ in range(3)))
    known_N = np.isfinite(values_N)
    least_K = np.fmin.reduceat(values_N, starts_K)
    greatest_K = np.fmax.reduceat(values_N, starts_K)
    counts_K = np.add.reduceat(known_N.astype(np.float64), starts_K)
    # each value is divided first: a sum of the largest floats would be infinite
    shares_N = np.where(known_N, values_N, 0.0) / np.repeat(np.maximum(counts_K, 1), _sizes(starts_K, len(values_N)))
    with np.errstate(over="ignore"):  # by a last bit, for values near the largest float; clipped below
        mean_K = np.where(counts_K > 0, np.add.reduceat(shares_N, starts_K), np.nan)
    return Band(least_K, np.clip(mean_K, least_K, greatest_K), greatest_K)


def _sizes(starts_K: Indices, values: int) -> Indices:
    return np.diff(np.append(starts_K, values))
