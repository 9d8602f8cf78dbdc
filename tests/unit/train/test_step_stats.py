"""The summed vector of a step is read as it was filled, whatever the number of ranks, corpora and scalars."""

import numpy as np
import pytest
import torch

from gmml_cluster.data.node_cache.cache import CacheFigures
from gmml_cluster.train.step_stats import RankStats, StepVector, cache_scalars

CPU = torch.device("cpu")
SCALARS = {"two": [4.0, 2.0], "masked": [3.0, 6.0]}


def stats(rank, **changed):
    given = {
        "notice": False, "cancelled": False, "save": rank == 0, "unchecked": 5, "damaged": 1, "reads_in_flight": 2.5,
        "read_ahead_bytes": 100.0, "retries": 3, "data_wait_s": 0.25 * rank, "step_s": 1.0 + rank,
        "bad_sample": 10 * rank, "own_s": 0.5 * rank, "bad": [rank, 0, 2],
    }  # fmt: skip
    return RankStats(**{**given, **changed})


def summed(ranks, loss=1.5, **changed):
    vectors = [StepVector(ranks, rank, 3) for rank in range(ranks)]
    scalars = {name: torch.tensor(pair, dtype=torch.float64) for name, pair in SCALARS.items()}
    packed = [
        vector.pack(torch.tensor(loss, dtype=torch.float64), stats(rank, **changed), scalars)
        for rank, vector in enumerate(vectors)
    ]
    squares = torch.tensor([4.0, 9.0], dtype=torch.float64)
    return vectors[0], torch.cat([squares, torch.stack(packed).sum(0)]).numpy()


@pytest.mark.parametrize("ranks", [1, 2, 5])
def test_every_field_is_read_as_it_was_filled(ranks):
    vector, values = summed(ranks)
    read = vector.unpack(values, vector.scalars)
    assert read.squares.tolist() == [4.0, 9.0]
    assert (read.loss, read.notice, read.cancelled, read.save) == (1.5 * ranks, 0, 0, 1)
    assert (read.unchecked, read.damaged, read.retries) == (5 * ranks, ranks, 3 * ranks)
    assert (read.reads_in_flight, read.read_ahead_bytes) == (2.5 * ranks, 100.0 * ranks)
    assert (read.data_wait_s, read.step_s) == (0.25 * (ranks - 1), float(ranks))
    assert read.bad_samples == [10 * rank for rank in range(ranks)]
    assert read.own_s == [0.5 * rank for rank in range(ranks)]
    assert read.bad == [sum(range(ranks)), 0, 2 * ranks]
    assert read.scalars == {name: (total * ranks, count * ranks) for name, (total, count) in sorted(SCALARS.items())}
    assert read.finite


def test_one_rank_s_notice_is_read_by_all():
    vector, values = summed(3, notice=True)
    assert vector.unpack(values, vector.scalars).notice == 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_the_loss_is_named_before_the_gradients_that_follow_from_it(value):
    vector, values = summed(2, loss=float(value))
    values[0] = np.nan
    read = vector.unpack(values, vector.scalars)
    assert not read.finite
    assert read.first_not_finite(("a", "b")) == "the loss"


def test_the_first_gradient_that_is_not_finite_is_named():
    vector, values = summed(2)
    values[1] = np.inf
    read = vector.unpack(values, vector.scalars)
    assert (read.finite, read.first_not_finite(("a", "b"))) == (False, "the gradient of b")


def test_figures_of_node_caches_are_a_share_and_a_sum_over_ranks():
    of_ranks = [cache_scalars(CacheFigures(hits, missed, faults), rank, CPU)
                for rank, (hits, missed, faults) in enumerate([(30, 10, 0), (0, 20, 2), (0, 0, 1)])]  # fmt: skip
    sums = {name: torch.stack([each[name] for each in of_ranks]).sum(0).tolist() for name in of_ranks[0]}
    assert sums == {"cache_hits": [30, 60], "cache_faults": [3, 1]}
