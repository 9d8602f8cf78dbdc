"""When a node needs parts of shards: never later than it does, and earlier by an open window at most."""

from types import SimpleNamespace
from unittest import mock

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pinned import PinnedShard, PinnedShards
from gmml_cluster.data.node_cache import plan
from gmml_cluster.data.node_cache.plan import NEVER, NodeUsePlan, name_of
from gmml_cluster.data.reader.order import Order
from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout
from tests.unit.data.reader.test_order import layouts

STEPS = 60


def pin_of(layout: SampleLayout):
    """A pin of the layout's shards, in which each sample is ten bytes."""
    corpora = []
    for c, corpus in enumerate(layout.corpora):
        shards = [
            PinnedShard(ShardFile(f"s3://bucket/{c}/{number}.tar", 10 * samples, "etag"), samples, "crcs")
            for number, samples in enumerate(corpus.shards)
        ]
        corpora.append(SimpleNamespace(shards=PinnedShards.of(shards, "")))
    return SimpleNamespace(corpora=corpora)


def parts_of(pin, samples):
    """Parts of so many samples: name -> (corpus, their y)."""
    parts = {}
    for c, corpus in enumerate(pin.corpora):
        before = 0
        for shard in corpus.shards:
            for start in range(0, shard.file.size, 10 * samples):
                length = min(10 * samples, shard.file.size - start)
                ys = range(before + start // 10, before + (start + length) // 10)
                parts[name_of(shard, start, length)] = c, ys
            before += shard.samples
    return parts


def draws_of(order, ranks, node_ranks):
    """(corpus, y) -> the steps in which the node's ranks draw it."""
    found = {}
    for step in range(STEPS):
        for rank in node_ranks:
            where = order.locate(order.rank_numbers(step, ranks, rank))
            for pair in zip(where.corpus.tolist(), where.y.tolist(), strict=True):
                found.setdefault(pair, []).append(step)
    return found


@settings(max_examples=15, deadline=None)
@given(layouts(), st.data())
def test_no_sample_is_needed_before_the_plan_says_so_nor_much_later(layout, data):
    ranks = data.draw(st.integers(1, layout.lanes))
    first = data.draw(st.integers(0, ranks - 1))
    node = range(first, data.draw(st.integers(first + 1, ranks)))
    order, pin = Order(layout), pin_of(layout)
    with mock.patch.object(plan, "_EPOCHS_A_NODE", 200):  # more than the steps looked at have
        node_plan = NodeUsePlan(order, pin, ranks, node)
    parts, draws = parts_of(pin, 1), draws_of(order, ranks, node)
    names = list(parts)
    for now in (0, 1, STEPS // 3):
        for name, step in zip(names, node_plan.next_steps(names, now), strict=True):
            c, (y,) = parts[name]
            needed = next((at for at in draws.get((c, y), []) if at >= now), None)
            if needed is not None:
                assert now <= step <= needed
            if step < now + 10:  # so its window closes within the steps looked at, or belongs to all lanes
                epochs = [order.openings(c, epoch, np.array([y])) for epoch in order.epochs_from(c, now)[:40]]
                open_now = [each for each in epochs if each.first_step[0] <= step <= each.last_step[0]]
                assert any(each.lane[0] == -1 or in_node(layout, ranks, node, each.lane[0]) for each in open_now)


def in_node(layout, ranks, node, lane):
    return any(rank * layout.lanes // ranks <= lane < (rank + 1) * layout.lanes // ranks for rank in node)


@settings(max_examples=10, deadline=None)
@given(layouts(), st.integers(2, 5))
def test_a_part_is_needed_with_the_first_needed_of_its_outer_samples(layout, samples):
    order, pin = Order(layout), pin_of(layout)
    node_plan = NodeUsePlan(order, pin, 1, range(1))
    parts, singles = parts_of(pin, samples), {where: name for name, where in parts_of(pin, 1).items()}
    names = list(parts)
    for name, step in zip(names, node_plan.next_steps(names, 3), strict=True):
        c, ys = parts[name]
        outer = [singles[c, range(y, y + 1)] for y in (ys[0], ys[-1])]
        assert step == min(node_plan.next_steps(outer, 3))


@given(layouts())
@settings(max_examples=5, deadline=None)
def test_what_is_no_part_of_the_pin_is_unknown(layout):
    pin = pin_of(layout)
    node_plan = NodeUsePlan(Order(layout), pin, 1, range(1))
    shard = next(shard for corpus in pin.corpora for shard in corpus.shards if shard.samples)
    foreign = PinnedShard(ShardFile(shard.file.url, shard.file.size, "another etag"), shard.samples, "crcs")
    names = ["count", name_of(foreign, 0, 10), name_of(shard, 0, 10), "0" * 32, "x-0-10"]
    assert [step is None for step in node_plan.next_steps(names, 0)] == [True, True, False, True, True]
    assert node_plan.next_steps([], 0) == []


def test_a_node_with_few_of_many_ranks_looks_further_ahead():
    layout = SampleLayout(
        seed=3,
        batch=32,
        group=2,
        lanes=16,
        window=4,
        spans=64,
        corpora=(CorpusShape(1.0, (320,)),),
    )
    pin = pin_of(layout)
    names = list(parts_of(pin, 1))
    steps = NodeUsePlan(Order(layout), pin, 16, range(1)).next_steps(names, 0)
    assert sum(step == NEVER for step in steps) < 20  # of 320, though an epoch gives this rank 20
