"""The rules of the order (docs/reference/order-of-samples.md), over corpora of uneven and empty shards."""

import tracemalloc
from array import array
from collections import defaultdict
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.random.feistel import permutation_key, permute
from gmml_cluster.data.reader.order import Order, _CorpusOrder
from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout, lane_indices
from tests.unit.data.reader import order_oracle as oracle

shards = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(lambda counts: sum(counts) > 0)
corpora = st.lists(st.builds(CorpusShape, st.integers(1, 9).map(float), shards.map(tuple)), min_size=1, max_size=3)


@st.composite
def layouts(draw):
    shapes = tuple(draw(corpora))
    group, lanes = draw(st.integers(1, 4)), draw(st.integers(len(shapes), 7))
    return SampleLayout(
        seed=draw(st.integers(0, 2**32 - 1)),
        batch=group * lanes * draw(st.integers(1, 3)),
        group=group,
        lanes=lanes,
        window=group * draw(st.integers(1, 6)),
        spans=draw(st.integers(1, 5)),
        corpora=shapes,
    )


def drawn(order, samples):
    locations = order.locate(np.arange(samples))
    return list(zip(locations.corpus.tolist(), locations.epoch.tolist(), locations.y.tolist(), strict=True))


@settings(max_examples=20, deadline=None)
@given(layouts())
def test_order_equals_the_sequential_oracle(layout):
    assert drawn(Order(layout), 150) == oracle.order(layout, 150)


@settings(max_examples=8, deadline=None)
@given(layouts())
def test_every_epoch_visits_every_sample_exactly_once(layout):
    visited = defaultdict(list)
    for corpus, epoch, y in drawn(Order(layout), 400):
        visited[corpus, epoch].append(y)
    for c, shape in enumerate(layout.corpora):
        last = max(epoch for corpus, epoch in visited if corpus == c)
        for epoch in range(last):
            assert sorted(visited[c, epoch]) == list(range(shape.samples))


def test_epochs_of_a_corpus_with_bodies_heads_and_tails_visit_every_sample_once():
    layout = SampleLayout(
        seed=5, batch=24, group=2, lanes=6, window=8, spans=3, corpora=(CorpusShape(1.0, (61, 0, 7, 90)),)
    )
    y = Order(layout).locate(np.arange(158 * 20)).y.reshape(20, 158)
    assert (np.sort(y, axis=1) == np.arange(158)).all()


@settings(max_examples=25, deadline=None)
@given(layouts(), st.integers(0, 2**40))
def test_mixing_is_exact_in_every_row_and_groups_are_of_one_corpus(layout, row):
    width = layout.lanes * layout.group
    corpus = Order(layout).locate(row * width + np.arange(width)).corpus.reshape(layout.lanes, layout.group)
    assert (corpus == corpus[:, :1]).all()
    assert np.bincount(corpus[:, 0], minlength=len(layout.corpora)).tolist() == list(layout.lane_counts)
    assert corpus[:, 0].tolist() == [c for c, _ in lane_indices(layout.lane_counts)]


@settings(max_examples=6, deadline=None)
@given(layouts(), st.integers(0, 2**30))
def test_ranks_of_every_number_split_a_step_into_the_same_samples(layout, step):
    order = Order(layout)
    whole = order.locate(step * layout.batch + np.arange(layout.batch))
    by_number = dict(zip((step * layout.batch + np.arange(layout.batch)).tolist(), whole.y.tolist(), strict=True))
    for ranks in range(1, layout.lanes + 1):
        shares = [order.rank_numbers(step, ranks, rank) for rank in range(ranks)]
        assert sorted(np.concatenate(shares).tolist()) == list(by_number)
        for share in shares:
            assert (share.reshape(-1, layout.group) % layout.group == np.arange(layout.group)).all()
            assert (np.diff(share) > 0).all()
            assert order.locate(share).y.tolist() == [by_number[n] for n in share.tolist()]


@settings(max_examples=10, deadline=None)
@given(layouts(), st.lists(st.integers(0, 2**45), min_size=1, max_size=6))
def test_seeking_needs_no_replay(layout, numbers):
    together = Order(layout).locate(np.array(numbers))
    for index, n in enumerate(numbers):
        alone = Order(layout).locate(np.array([n]))
        assert (alone.corpus[0], alone.epoch[0], alone.y[0]) == (
            together.corpus[index],
            together.epoch[index],
            together.y[index],
        )


def test_windows_of_lanes_open_evenly_in_time():
    layout = SampleLayout(
        seed=1, batch=16, group=2, lanes=8, window=16, spans=1, corpora=(CorpusShape(1.0, (16 * 16 * 8,)),)
    )
    order = Order(layout)._corpora[0]
    t = np.arange(0, 256, 2)
    begins = [order._lane_windows(t, np.full_like(t, k), np.full_like(t, 256))[1] for k in range(8)]
    opened = np.sum([np.diff(begin) > 0 for begin in begins], axis=0)
    assert opened[8:].tolist() == [1] * len(opened[8:])


def test_samples_of_a_group_come_from_one_window_of_neighbours():
    layout = SampleLayout(
        seed=1, batch=64, group=8, lanes=8, window=32, spans=1, corpora=(CorpusShape(1.0, (8 * 64 * 8,)),)
    )
    y = Order(layout).locate(np.arange(4096)).y.reshape(-1, 8)
    assert (y.max(axis=1) - y.min(axis=1)).max() < 32
    assert (y // 512 == (y[:, :1] // 512)).all()


def test_a_second_epoch_is_shuffled_differently():
    layout = SampleLayout(seed=1, batch=8, group=2, lanes=4, window=8, spans=2, corpora=(CorpusShape(1.0, (50, 46)),))
    y = Order(layout).locate(np.arange(192)).y
    assert not np.array_equal(y[:96], y[96:])


@settings(max_examples=25, deadline=None)
@given(layouts())
def test_windows_are_open_from_the_first_to_the_last_step_that_draws_of_them(layout):
    order, samples = Order(layout), layout.batch * 40
    locations = order.locate(np.arange(samples))
    corpora = [c for c, _ in lane_indices(layout.lane_counts)]
    steps, lanes = np.arange(samples) // layout.batch, np.arange(samples) // layout.group % layout.lanes
    drawn_steps, drawn_samples, windows = defaultdict(set), defaultdict(int), {}
    for n, (c, epoch, y) in enumerate(drawn(order, samples)):
        if (c, epoch) not in windows:
            windows[c, epoch] = order.openings(c, epoch, np.arange(layout.corpora[c].samples))
        found = windows[c, epoch]
        assert found.first_step[y] <= steps[n] <= found.last_step[y]
        assert found.lane[y] in (lanes[n], -1)
        assert corpora[lanes[n]] == c
        key = c, epoch, int(found.first_step[y]), int(found.last_step[y]), int(found.lane[y])
        drawn_steps[key].add(int(steps[n]))
        drawn_samples[key] += 1
    assert len(locations.y) == samples
    for key, of_window in drawn_steps.items():
        c, epoch, first, last, lane = key
        found = windows[c, epoch]
        whole = (found.first_step == first) & (found.last_step == last) & (found.lane == lane)
        if whole.sum() == drawn_samples[key]:  # else the draws looked at end within it
            assert (min(of_window), max(of_window)) == (first, last)


def test_epochs_from_a_step_begin_with_that_of_its_first_sample():
    layout = SampleLayout(seed=5, batch=24, group=2, lanes=6, window=8, spans=3, corpora=(CorpusShape(1.0, (61, 97)),))
    order = Order(layout)
    for step in range(0, 200, 7):
        epoch = int(order.locate(np.array([step * 24])).epoch[0])
        assert order.epochs_from(0, step)[0] == epoch
        assert len(order.epochs_from(0, step)) >= 2


@pytest.mark.parametrize("samples", [10**6, 10**11])
def test_what_a_rank_computes_with_depends_on_spans_and_not_on_samples(samples: int) -> None:
    spans = 2**20
    counts = array("q", (np.diff(np.arange(spans + 1) * samples // spans)).tolist())
    layout = SampleLayout(
        seed=1, batch=2**13, group=8, lanes=1024, window=256, spans=1, corpora=(CorpusShape(1.0, counts),)
    )
    tracemalloc.start()
    order = Order(layout)
    order.locate(order.rank_numbers(samples // 2**13 - 1, 1024, 7))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6 * 8 * spans  # of 15 arrays of all spans and more, were they permuted at once


def test_ranks_of_many_lanes_share_them_out_as_fractions_would() -> None:
    counts = (7_001, 4_000, 2_107)
    lanes = [(Fraction(2 * p + 1, 2 * count), c, p) for c, count in enumerate(counts) for p in range(count)]
    assert list(lane_indices(counts)) == [(c, p) for _, c, p in sorted(lanes)]


def test_many_positions_are_permuted_as_each_alone() -> None:
    n = 20_001
    key = permutation_key(3, 1, tuple(np.zeros((4, 1), np.int64)))
    items = permute(key, np.full(n, n), np.arange(n))
    assert sorted(items.tolist()) == list(range(n))
    some = [0, 8191, 8192, 16_384, n - 1]
    assert [int(permute(key, np.array([n]), np.array([at]))[0]) for at in some] == items[some].tolist()


def test_an_epoch_that_is_held_is_not_permuted_again_however_many_others_were_asked_for(monkeypatch):
    layout = SampleLayout(seed=3, batch=8, group=2, lanes=2, window=4, spans=2, corpora=(CorpusShape(1.0, (5, 7, 9)),))
    order, permuted = Order(layout), []
    every = _CorpusOrder._all_permuted
    monkeypatch.setattr(_CorpusOrder, "_all_permuted", lambda self, epoch: permuted.append(epoch) or every(self, epoch))
    for _ in range(2):
        for epoch in range(20):
            order.openings(0, epoch, np.arange(3))
    assert sorted(permuted) == sorted([*range(20), *range(20)])  # once for where spans end, once for where they begin
