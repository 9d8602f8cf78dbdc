"""Lanes of a run: how a batch is shared among corpora, and lanes among ranks. Pure arithmetic.

The rules and a worked example: docs/reference/order-of-samples.md. What `spec/rules.py` refuses is not checked again:
groups and lanes divide the batch, windows and micro-batches are whole groups, and there is a lane for each corpus.

Dims: B batch, G group, L lanes, L_c lanes of corpus c, N_c its samples, R ranks.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fractions import Fraction
from functools import cached_property
from math import lcm
from typing import Any, Literal

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.wording import counted

MOST_LANES = 4096
"""Of `auto`. A lane of many opens a window of at least 32 groups, so more lanes are more images in memory."""
ROWS_WANTED = 64
SPANS_OF_A_LANE = 8
WINDOWED_SAMPLES = 65536

Auto = int | Literal["auto"]


@dataclass(frozen=True)
class CorpusShape:
    """What the order needs to know of a corpus."""

    weight: float
    """Share of the samples drawn, relative to the other corpora."""
    shards: Sequence[int]
    """Samples of each shard, in listed order; a shard may be empty. Of millions, an array and no tuple."""

    @cached_property
    def samples(self) -> int:
        """Samples of the corpus."""
        return sum(self.shards)


@dataclass(frozen=True)
class SampleLayout:
    """Everything that decides the order of samples; fixed by a run's first attempt."""

    seed: int
    batch: int
    """Images a step, B."""
    group: int
    """Consecutive samples that may be coupled, G."""
    lanes: int
    """Lanes, L; G * L divides B."""
    window: int
    """Samples shuffled together within a lane, a multiple of G."""
    spans: int
    """Pieces each shard is cut into."""
    corpora: tuple[CorpusShape, ...]

    @property
    def steps_rows(self) -> int:
        """Rows (one group of each lane) that make a step."""
        return self.batch // (self.group * self.lanes)

    @cached_property
    def lane_counts(self) -> tuple[int, ...]:
        """Lanes of each corpus, L_c."""
        return lane_counts([corpus.weight for corpus in self.corpora], self.lanes)

    @property
    def mixing(self) -> tuple[float, ...]:
        """Share of each corpus that the lanes achieve; exact in every row."""
        return tuple(count / self.lanes for count in self.lane_counts)

    def to_json(self) -> dict[str, Any]:
        """Plain mapping without the corpora, whose shards may be many; `from_json` reads it back."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "corpora"}

    @classmethod
    def from_json(cls, given: Mapping[str, Any], corpora: Iterable[CorpusShape]) -> "SampleLayout":
        """The layout that `to_json` wrote, over its corpora."""
        return cls(**given, corpora=tuple(corpora))


@dataclass(frozen=True)
class MicroBatches:
    """How every rank cuts its share of a step."""

    groups_per_micro: int
    """Groups of a micro-batch, alike on all ranks."""
    count: int
    """Micro-batches a step."""
    padding_share: float
    """Share of computed groups that are copies and count for nothing."""


def lane_counts(weights: Sequence[float], lanes: int) -> tuple[int, ...]:
    """Lanes of each corpus by largest remainder of the weights; each gets at least one.

    Equal remainders go to the corpus listed first. Weights count as the decimals they are written as.
    """
    exact = [Fraction(str(weight)) for weight in weights]
    quotas = [weight * lanes / sum(exact) for weight in exact]
    counts = [int(quota) for quota in quotas]
    by_remainder = sorted(range(len(counts)), key=lambda c: counts[c] - quotas[c])
    for c in by_remainder[: lanes - sum(counts)]:
        counts[c] += 1
    for c in range(len(counts)):
        if counts[c] == 0:
            counts[counts.index(max(counts))] -= 1
            counts[c] = 1
    return tuple(counts)


def lane_indices(counts: Sequence[int]) -> tuple[tuple[int, int], ...]:
    """Of each lane in turn (corpus, number of the lane within it): the lanes of a corpus are spread evenly."""
    common = lcm(*counts)  # in whole numbers, as a hundred thousand fractions take seconds to sort
    lanes = [((2 * p + 1) * (common // count), c, p) for c, count in enumerate(counts) for p in range(count)]
    return tuple((c, p) for _, c, p in sorted(lanes))


def rank_lanes(lanes: int, ranks: int, rank: int) -> range:
    """Lanes that a rank owns.

    Raises:
        SpecError: there are more ranks than lanes.
    """
    if ranks > lanes:
        problem = f"{ranks} ranks for {counted(lanes, 'lane')}; each rank needs a lane"
        raise SpecError(Fault("resources.nodes", problem, _more_lanes(lanes)))
    return range(rank * lanes // ranks, (rank + 1) * lanes // ranks)


def _more_lanes(lanes: int) -> str:
    return f"use at most {counted(lanes, 'rank')}, or raise data.lanes (batch.size / group at most)"


def groups_of_rank(layout: SampleLayout, ranks: int, rank: int) -> int:
    """Groups of a step that a rank computes, padding apart."""
    return len(rank_lanes(layout.lanes, ranks, rank)) * layout.steps_rows


def micro_batches(layout: SampleLayout, ranks: int, micro: Auto = "auto") -> MicroBatches:
    """Micro-batches of a step: one shape and number on all ranks, as many as the fullest rank needs.

    Args:
        layout: the run's layout.
        ranks: number of ranks, at most the lanes.
        micro: images a rank holds at once, a multiple of the group; `auto` for all of its share.

    Raises:
        SpecError: there are more ranks than lanes.
    """
    # the last rank's lanes are as many as any rank's
    fullest = groups_of_rank(layout, ranks, ranks - 1)
    groups = fullest if micro == "auto" else min(micro // layout.group, fullest)
    count = -(-fullest // groups)
    return MicroBatches(groups, count, 1 - layout.batch / layout.group / (ranks * count * groups))


def auto_lanes(batch: int, group: int, corpora: Sequence[CorpusShape]) -> int:
    """The largest divisor of B/G up to 4,096 that leaves every corpus 64 whole rows; else one row; else the least."""
    divisors = [d for d in _divisors(batch // group) if d >= len(corpora)]
    few = [d for d in divisors if d <= MOST_LANES]
    for rows in (ROWS_WANTED, 1):
        for lanes in reversed(few):
            if _whole_rows(lanes, group, corpora) >= rows:
                return lanes
    return divisors[0]


def _divisors(number: int) -> list[int]:
    low = [d for d in range(1, int(number**0.5) + 1) if number % d == 0]
    return sorted({*low, *(number // d for d in low)})


def _whole_rows(lanes: int, group: int, corpora: Sequence[CorpusShape]) -> int:
    counts = lane_counts([corpus.weight for corpus in corpora], lanes)
    return min(corpus.samples // (count * group) for corpus, count in zip(corpora, counts, strict=True))


def auto_window(group: int, lanes: int) -> int:
    """Samples of a window where the spec does not say."""
    return group * max(32, WINDOWED_SAMPLES // (lanes * group))


def auto_spans(lanes: int, corpora: Sequence[CorpusShape]) -> int:
    """The least number of spans a shard that gives every lane 8 of them; empty shards count for nothing."""
    counts = lane_counts([corpus.weight for corpus in corpora], lanes)
    filled = [sum(samples > 0 for samples in corpus.shards) for corpus in corpora]
    return max(-(-SPANS_OF_A_LANE * count // shards) for count, shards in zip(counts, filled, strict=True))


def make_layout(
    *,
    seed: int,
    batch: int,
    group: int,
    lanes: Auto = "auto",
    window: Auto = "auto",
    spans: Auto = "auto",
    corpora: Iterable[CorpusShape],
) -> SampleLayout:
    """The layout of a run with a number for every `auto`.

    Args:
        seed: the run's seed, below 2**32.
        batch: images a step.
        group: consecutive samples that may be coupled.
        lanes: parallel stretches of the corpora.
        window: samples shuffled together within a lane.
        spans: pieces each shard is cut into.
        corpora: weights and shards.

    Raises:
        SpecError: a corpus is empty.
    """
    shapes = tuple(corpora)
    faults = _faults_of_corpora(shapes)
    if faults:
        raise SpecError(faults)
    number = auto_lanes(batch, group, shapes) if lanes == "auto" else lanes
    return SampleLayout(
        seed=seed,
        batch=batch,
        group=group,
        lanes=number,
        window=auto_window(group, number) if window == "auto" else window,
        spans=auto_spans(number, shapes) if spans == "auto" else spans,
        corpora=shapes,
    )


def _faults_of_corpora(corpora: Sequence[CorpusShape]) -> list[Fault]:
    return [
        Fault(f"data.corpora.{c}", "0 samples; a corpus needs at least one", "check its url")
        for c, corpus in enumerate(corpora)
        if corpus.samples == 0
    ]
