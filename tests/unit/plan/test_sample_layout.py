"""Lanes, ranks and micro-batches (docs/reference/order-of-samples.md)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.errors import SpecError
from gmml_cluster.plan.sample_layout import (
    CorpusShape,
    SampleLayout,
    groups_of_rank,
    lane_counts,
    lane_indices,
    make_layout,
    micro_batches,
    rank_lanes,
)

IN1K = CorpusShape(1.0, (9900,) * 129)


def test_lanes_follow_weights_by_largest_remainder():
    assert lane_counts([1.0], 8) == (8,)
    assert lane_counts([0.7, 0.2, 0.1], 10) == (7, 2, 1)
    assert lane_counts([1.0, 1.0, 1.0], 8) == (3, 3, 2)
    assert lane_counts([3.0, 2.6, 2.4], 8) == (3, 3, 2)


def test_corpus_without_a_lane_takes_one_from_the_corpus_with_most():
    assert lane_counts([100.0, 1.0, 1.0], 4) == (2, 1, 1)
    assert lane_counts([1.0, 1.0, 100.0], 3) == (1, 1, 1)


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=6), st.integers(6, 200))
def test_lane_counts_sum_to_the_lanes_and_stay_near_the_quota(weights, lanes):
    counts = lane_counts(weights, lanes)
    assert sum(counts) == lanes
    assert min(counts) >= 1
    for count, weight in zip(counts, weights, strict=True):
        assert count == 1 or count < weight * lanes / sum(weights) + 1.000001


def test_lanes_of_a_corpus_are_spread_evenly():
    assert lane_indices((2, 1)) == ((0, 0), (1, 0), (0, 1))
    assert lane_indices((2, 2)) == ((0, 0), (1, 0), (0, 1), (1, 1))


@given(st.integers(1, 300), st.data())
def test_ranks_partition_the_lanes(lanes, data):
    ranks = data.draw(st.integers(1, lanes))
    owned = [lane for rank in range(ranks) for lane in rank_lanes(lanes, ranks, rank)]
    assert owned == list(range(lanes))
    assert min(len(rank_lanes(lanes, ranks, rank)) for rank in range(ranks)) >= 1


def test_more_ranks_than_lanes_are_refused_with_the_cure():
    with pytest.raises(SpecError, match=r"resources\.nodes: 9 ranks for 8 lanes; .* use at most 8 ranks"):
        rank_lanes(8, 9, 0)


def test_auto_resolves_lanes_window_and_spans_of_a_large_corpus():
    layout = make_layout(seed=0, batch=4096, group=8, corpora=[IN1K])
    assert (layout.lanes, layout.window, layout.spans) == (512, 8 * 32, 32)
    assert layout.steps_rows == 1


def test_auto_lanes_are_enough_for_thousands_of_ranks():
    layout = make_layout(seed=0, batch=32768, group=8, corpora=[CorpusShape(1.0, (6935,) * 2048)])
    assert layout.lanes == 4096
    assert len(rank_lanes(layout.lanes, 4096, 4095)) == 1


def test_auto_lanes_leave_every_corpus_64_whole_rows():
    small = CorpusShape(1.0, (64 * 4 * 8,))
    assert make_layout(seed=0, batch=512, group=8, corpora=[small]).lanes == 4
    assert make_layout(seed=0, batch=512, group=8, corpora=[CorpusShape(1.0, (64 * 4 * 8 - 1,))]).lanes == 2


def test_auto_lanes_of_a_tiny_corpus_leave_one_row_or_one_lane():
    assert make_layout(seed=0, batch=64, group=8, corpora=[CorpusShape(1.0, (40,))]).lanes == 4
    assert make_layout(seed=0, batch=64, group=8, corpora=[CorpusShape(1.0, (5,))]).lanes == 1


def test_auto_lanes_suit_the_scarcest_corpus():
    layout = make_layout(seed=0, batch=1024, group=8, corpora=[IN1K, CorpusShape(1.0, (64 * 8 * 3,))])
    assert layout.lanes == 4
    assert layout.mixing == (0.5, 0.5)


def test_auto_spans_are_the_least_that_give_a_lane_eight():
    layout = make_layout(seed=0, batch=64, group=8, lanes=8, corpora=[CorpusShape(1.0, (100, 0, 100, 100))])
    assert layout.spans == 22


def test_layout_survives_json():
    layout = make_layout(seed=3, batch=64, group=8, corpora=[IN1K, CorpusShape(0.5, (1000, 0))])
    assert SampleLayout.from_json(layout.to_json(), layout.corpora) == layout


def test_every_empty_corpus_is_refused():
    with pytest.raises(SpecError) as caught:
        make_layout(seed=0, batch=64, group=8, corpora=[CorpusShape(1.0, (0, 0)), IN1K, CorpusShape(1.0, ())])
    assert [fault.where for fault in caught.value.faults] == ["data.corpora.0", "data.corpora.2"]


def test_micro_batches_have_one_shape_on_all_ranks():
    layout = make_layout(seed=0, batch=64, group=2, lanes=16, corpora=[IN1K])
    assert [groups_of_rank(layout, 3, rank) for rank in range(3)] == [10, 10, 12]
    whole = micro_batches(layout, 3)
    assert (whole.groups_per_micro, whole.count) == (12, 1)
    assert whole.padding_share == pytest.approx(1 - 32 / 36)
    cut = micro_batches(layout, 3, 10)
    assert (cut.groups_per_micro, cut.count) == (5, 3)
    assert cut.padding_share == pytest.approx(1 - 32 / 45)
    assert micro_batches(layout, 4).padding_share == 0
