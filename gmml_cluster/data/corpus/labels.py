"""Whether the samples of a corpus are sorted by class, judged by a few of its shards."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.tar import NO_LABEL

_LEAST_SAMPLES = 64
"""With fewer, shuffled labels look sorted too often by chance."""


def are_sorted(shards: Sequence[NDArray[np.int32]]) -> bool:
    """Whether neighbours within shards are much more alike than distant samples.

    The criterion is von Neumann's ratio: mean squared difference of neighbours over twice the variance of all. It is
    near 1 where labels are shuffled, near 0 where they ascend or each shard has a class of its own; half-way decides.

    Args:
        shards: the labels of each shard in order; samples without one are ignored.
    """
    labelled = [labels[labels != NO_LABEL].astype(np.float64) for labels in shards]
    every = np.concatenate([*labelled, np.zeros(0)])
    steps = np.concatenate([*map(np.diff, labelled), np.zeros(0)])
    if len(steps) < _LEAST_SAMPLES:
        return False
    return bool(np.mean(steps**2) < every.var())
