"""Sorted labels are distinguished from shuffled ones."""

import numpy as np
import pytest

from gmml_cluster.data.corpus.labels import are_sorted

RANDOM = np.random.default_rng(0)


def shuffled(labels):
    return RANDOM.permutation(labels)


@pytest.mark.parametrize(
    "shards",
    [
        [np.arange(1000)],
        [np.sort(RANDOM.integers(0, 10, 200)) for _ in range(4)],
        [np.full(50, label) for label in (3, 1, 7)],
        [np.repeat(shuffled(np.arange(40)), 25)],
        [np.arange(100)[::-1]],
    ],
    ids=["each label once", "each shard sorted", "a class a shard", "classes in any order", "descending"],
)
def test_sorted_labels_are_recognised(shards):
    assert are_sorted(shards)


@pytest.mark.parametrize(
    "shards",
    [
        [shuffled(np.arange(1000))],
        [RANDOM.integers(0, 2, 100) for _ in range(4)],
        [shuffled(np.repeat((0, 1), (990, 10)))],
        [np.full(1000, -1)],
        [np.full(1000, 5)],
        [np.arange(20)],
        [],
    ],
    ids=["many classes", "two classes", "a rare class", "no labels", "one class", "too few to judge", "no shards"],
)
def test_other_labels_are_not(shards):
    assert not are_sorted(shards)


def test_samples_without_a_label_count_for_nothing():
    labels = np.full(400, -1)
    labels[::2] = np.arange(200)
    assert are_sorted([labels])
