"""When the ranks of a node need parts of shards next, by the order of samples.

A sample is drawn once an epoch, in one of the steps while its window is open (`Order.openings`). Where in its shard a
part lies is estimated from its share of the shard's bytes: the index, which has it exactly, need not be in memory, and
in the end the estimate only decides what is kept.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.corpus.pinned import PinnedShard
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.order import Order
from gmml_cluster.plan.sample_layout import rank_lanes

NEVER = 2**62
"""A step that does not come, or is too far ahead to be looked at."""
_EPOCHS_A_NODE = 4
_KEY_DIGITS = 32
_NAME = re.compile(rf"([0-9a-f]{{{_KEY_DIGITS}}})-(\d+)-(\d+)")


def name_of(shard: PinnedShard, start: int, length: int) -> str:
    """The name of a part of a shard: of everything that was pinned of the shard, and the part's bytes."""
    return f"{_key(shard)}-{start}-{length}"


def _key(shard: PinnedShard) -> str:
    file = shard.file
    pinned = json.dumps([file.url, file.size, file.version, shard.crcs])
    return hashlib.sha256(pinned.encode()).hexdigest()[:_KEY_DIGITS]


@dataclass(frozen=True)
class _Parts:
    """Parts of the pin's shards; arrays of one length."""

    at: Ints
    """Which of the names asked for."""
    shard: Ints
    """Number among all corpora's shards."""
    first: Ints
    """Its first byte in the shard."""
    last: Ints
    """Its last one."""


class NodeUsePlan:
    """What a node's ranks draw, and when; thread-safe.

    Args:
        order: the run's.
        pin: its corpora.
        ranks: number of ranks.
        node_ranks: those of this node.
    """

    def __init__(self, order: Order, pin: Pin, ranks: int, node_ranks: range) -> None:
        self._order, self._corpora = order, [corpus.shards for corpus in pin.corpora]
        lanes = order.layout.lanes
        self._own_lane = np.zeros(lanes + 1, bool)
        self._own_lane[-1] = True  # lane -1 is all lanes of a corpus
        for rank in node_ranks:
            self._own_lane[list(rank_lanes(lanes, ranks, rank))] = True
        self._epochs = _EPOCHS_A_NODE * -(-ranks // len(node_ranks))
        counts = [len(shards) for shards in self._corpora]
        self._first_shard = np.cumsum([0, *counts])
        self._starts = [np.cumsum(shards.samples) - shards.samples for shards in self._corpora]

    def next_steps(self, names: Sequence[str], now: int) -> list[int | None]:
        """The first step from `now` on that may need each part; `NEVER`, and None for what is no part of the pin.

        It may be earlier than the step that does need it, by the time for which a window is open.
        """
        found: list[int | None] = [None] * len(names)
        parts = self._parts(names)
        corpus = np.searchsorted(self._first_shard, parts.shard, side="right") - 1
        for c in np.unique(corpus).tolist():
            own = corpus == c
            shard = parts.shard[own] - self._first_shard[c]
            first, last = (self._y(c, shard, byte[own]) for byte in (parts.first, parts.last))
            steps = np.minimum(self._steps_of(c, first, now), self._steps_of(c, last, now))
            for at, step in zip(parts.at[own].tolist(), steps.tolist(), strict=True):
                found[at] = step
        return found

    def _parts(self, names: Sequence[str]) -> _Parts:
        matches = [(at, match) for at, match in enumerate(map(_NAME.fullmatch, names)) if match]
        keys = np.array([_number(match[1]) for _, match in matches], np.uint64)
        known, numbers = self._keys
        slots = np.minimum(np.searchsorted(known, keys), len(known) - 1)
        own = known[slots] == keys
        spans = np.array([(at, int(m[2]), int(m[2]) + int(m[3]) - 1) for at, m in matches], np.int64).reshape(-1, 3)
        return _Parts(spans[own, 0], numbers[slots[own]], spans[own, 1], spans[own, 2])

    @cached_property
    def _keys(self) -> tuple[NDArray[np.uint64], Ints]:
        """Beginnings of all keys, ascending, and the shards' numbers; made when there is no room for the first time."""
        keys = np.array([_number(_key(shard)) for shards in self._corpora for shard in shards], np.uint64)
        numbers = np.argsort(keys, kind="stable")
        return keys[numbers], numbers

    def _y(self, corpus: int, shard: Ints, byte: Ints) -> Ints:
        """Index in its corpus of the sample at about this byte of a shard; the shard by its number in the corpus."""
        shards = self._corpora[corpus]
        index = byte * shards.samples[shard] // np.maximum(shards.sizes[shard], 1)
        return np.asarray(self._starts[corpus][shard] + np.minimum(index, shards.samples[shard] - 1), np.int64)

    def _steps_of(self, corpus: int, y: Ints, now: int) -> Ints:
        steps = np.full_like(y, NEVER)
        for epoch in self._order.epochs_from(corpus, now)[: self._epochs]:
            left = np.flatnonzero(steps == NEVER)
            if not len(left):
                break
            openings = self._order.openings(corpus, epoch, y[left])
            needed = self._own_lane[openings.lane] & (openings.last_step >= now)
            steps[left] = np.where(needed, np.maximum(openings.first_step, now), NEVER)
        return steps


def _number(key: str) -> int:
    return int(key[:16], 16)
