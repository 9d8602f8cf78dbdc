"""The order of samples in closed form: which image sample number n is (docs/reference/order-of-samples.md).

Nothing is replayed: a resumed run computes the samples of its next step from their numbers.

Legend: n sample number, G group, L lanes, q row, c corpus, L_c its lanes, k lane within it, i index in the group,
m the corpus' own sample number, N its samples, e epoch, j index in the epoch, R = L_c * G, M whole rows of an epoch's
body, t index in a lane's stretch, W window, K spans a shard, y index of a sample in its corpus.
"""

import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gmml_cluster.data.random.feistel import permutation_key, permute
from gmml_cluster.data.random.philox import Ints, Purpose
from gmml_cluster.plan.sample_layout import SampleLayout, lane_indices, rank_lanes

_EPOCHS_HELD = 4
_HELD_BYTES = 2**26
"""Of a corpus, 8 bytes a span and epoch; two epochs are held in any case, as they meet inside a step."""
_SPANS_AT_ONCE = 2**16


@dataclass(frozen=True)
class SampleLocations:
    """Where samples come from; arrays of one length."""

    corpus: Ints
    """Number of the corpus, as listed in the spec."""
    epoch: Ints
    """Epoch of that corpus, from 0."""
    y: Ints
    """Index in the corpus: shards in listed order, then members."""


@dataclass(frozen=True)
class Openings:
    """When the windows that hold some samples are open; arrays of one length."""

    first_step: Ints
    """The first step that may draw the sample."""
    last_step: Ints
    """The last one."""
    lane: Ints
    """The lane whose window it is; -1 where all lanes of the corpus share one, as where epochs meet."""


@dataclass(frozen=True)
class _Windows:
    """The window of each position of an epoch: what is permuted, with which key, and where it begins."""

    purpose: Ints
    lane: Ints
    number: Ints
    start: Ints
    size: Ints
    offset: Ints


class Order:
    """The order of a layout. Safe to use from several threads.

    Each process holds the cumulative span counts of the last epochs, 8 bytes a span (decision 0013).
    """

    def __init__(self, layout: SampleLayout) -> None:
        self.layout = layout
        self._lane_corpus, self._lane_k = np.array(lane_indices(layout.lane_counts), np.int64).T
        self._corpora = [_CorpusOrder(layout, c) for c in range(len(layout.corpora))]

    def locate(self, numbers: Ints) -> SampleLocations:
        """The sample of each number: a function of the layout and the number alone.

        Args:
            numbers: int64 (n,), not negative, in any order.

        Returns:
            Corpus, epoch and y, each (n,).
        """
        numbers = np.asarray(numbers, np.int64)
        group, i = np.divmod(numbers, self.layout.group)
        row, lane = np.divmod(group, self.layout.lanes)
        corpus, k = self._lane_corpus[lane], self._lane_k[lane]
        epoch, y = np.empty_like(numbers), np.empty_like(numbers)
        for c, order in enumerate(self._corpora):
            own = corpus == c
            epoch[own], y[own] = order.locate(row[own], k[own], i[own])
        return SampleLocations(corpus, epoch, y)

    def openings(self, corpus: int, epoch: int, y: Ints) -> Openings:
        """When samples can be drawn in an epoch: while their window is open. The draw itself is one of those steps.

        Args:
            corpus: number of the corpus.
            epoch: of that corpus.
            y: int64 (n,), indexes in the corpus.
        """
        first, last, k = self._corpora[corpus].openings(epoch, np.asarray(y, np.int64))
        lanes = np.append(np.flatnonzero(self._lane_corpus == corpus), -1)  # the last one is what k = -1 picks
        rows = self.layout.steps_rows
        return Openings(first // rows, last // rows, lanes[k])

    def epochs_from(self, corpus: int, step: int) -> range:
        """Epochs of a corpus from a step on, as many as `openings` keeps in memory; two at least."""
        order = self._corpora[corpus]
        first = order.epoch_of_row(step * self.layout.steps_rows)
        return range(first, first + order.epochs_ahead)

    def rank_numbers(self, step: int, ranks: int, rank: int) -> Ints:
        """Sample numbers of a rank in a step: whole groups, upwards, int64 (groups of the rank * G,).

        Raises:
            SpecError: there are more ranks than lanes.
        """
        layout = self.layout
        lanes = np.array(rank_lanes(layout.lanes, ranks, rank), np.int64)
        rows = step * layout.steps_rows + np.arange(layout.steps_rows, dtype=np.int64)
        groups = rows[:, None] * layout.lanes + lanes
        return (groups.reshape(-1, 1) * layout.group + np.arange(layout.group)).reshape(-1)


class _CorpusOrder:
    """The order within one corpus."""

    def __init__(self, layout: SampleLayout, corpus: int) -> None:
        self._seed, self._corpus = layout.seed, corpus
        self._group, self._window, self._spans = layout.group, layout.window, layout.spans
        self._lanes = layout.lane_counts[corpus]
        self._shards = np.asarray(layout.corpora[corpus].shards, np.int64)
        self._all_spans = len(self._shards) * self._spans
        self._shard_starts = np.cumsum(self._shards) - self._shards
        self._samples = int(self._shards.sum())
        self._streams: dict[int, Ints] = {}
        self._starts: dict[int, Ints] = {}
        self._lock = threading.Lock()

    def locate(self, row: Ints, k: Ints, i: Ints) -> tuple[Ints, Ints]:
        """Epoch and y of the samples at (row, lane, index in the group) of the corpus."""
        epoch, j = np.divmod((row * self._lanes + k) * self._group + i, self._samples)
        windows = self._windows(epoch, j, k)
        key = permutation_key(
            self._seed, windows.purpose, (epoch, np.full_like(epoch, self._corpus), windows.lane, windows.number)
        )
        position = windows.start + permute(key, windows.size, windows.offset)
        y = np.empty_like(position)
        for e in np.unique(epoch):
            own = epoch == e
            y[own] = self._samples_of_stream(int(e), position[own])
        return epoch, y

    def epoch_of_row(self, row: int) -> int:
        """The epoch of the first sample of a row."""
        return row * self._lanes * self._group // self._samples

    def openings(self, epoch: int, y: Ints) -> tuple[Ints, Ints, Ints]:
        """First and last row while the window of each sample is open, and its lane in the corpus or -1."""
        N, R, G = self._samples, self._lanes * self._group, self._group
        head, tail = -epoch * N % R, (epoch + 1) * N % R
        first_row, last_row = np.full_like(y, epoch * N // R), np.full_like(y, ((epoch + 1) * N - 1) // R)
        if head + tail > N or N <= R:
            return first_row, last_row, np.full_like(y, -1)
        position = self._position(epoch, y)
        stretch = (N - head - tail) // R * G
        k, t = np.divmod(position - head, max(stretch, 1))
        _, begin, size = self._lane_windows(t, k, np.full_like(y, stretch))
        body = (epoch * N + head) // R
        cases = [position < head, position >= N - tail]
        return (
            np.select(cases, [first_row, last_row], body + begin // G),
            np.select(cases, [first_row, last_row], body + (begin + size - 1) // G),
            np.select(cases, [np.full_like(y, -1)] * 2, k),
        )

    def _position(self, epoch: int, y: Ints) -> Ints:
        """Where samples are in the epoch's stream: the inverse of `_samples_of_stream`."""
        shard = np.searchsorted(self._shard_starts, y, side="right") - 1
        samples, index = self._shards[shard], y - self._shard_starts[shard]
        f = ((index + 1) * self._spans - 1) // samples
        within = index - samples * f // self._spans
        return np.asarray(self._stream_starts(epoch)[shard * self._spans + f] + within, np.int64)

    @property
    def epochs_ahead(self) -> int:
        """Epochs of which `_stream_starts` holds the spans, 2 at least."""
        return max(2, _HELD_BYTES // (8 * self._all_spans))

    def _stream_starts(self, epoch: int) -> Ints:
        """Where each span begins in the epoch's stream, by its number."""
        with self._lock:
            if epoch in self._starts:
                return self._starts[epoch]
        ends = self._stream_ends(epoch)
        with self._lock:
            if epoch not in self._starts:
                while len(self._starts) >= self.epochs_ahead:
                    del self._starts[min(self._starts)]
                starts = self._starts[epoch] = np.empty_like(ends)
                for part, spans in self._all_permuted(epoch):
                    starts[spans] = ends[part] - self._span_sizes(spans)
            return self._starts[epoch]

    def _windows(self, epoch: Ints, j: Ints, k: Ints) -> _Windows:
        """The window of each index j of its epoch: whole epoch, head, tail, or a window of lane k."""
        N, R = self._samples, self._lanes * self._group
        head, tail = -epoch * N % R, (epoch + 1) * N % R
        whole = (head + tail > N) | (N <= R)
        in_head, in_tail = j < head, j >= N - tail
        stretch = (N - head - tail) // R * self._group
        t = (j - head) // R * self._group + (j - head) % R % self._group
        number, begin, size = self._lane_windows(t, k, stretch)
        cases = [whole, in_head, in_tail]
        zero = np.zeros_like(j)
        start = np.select(cases, [zero, zero, N - tail], head + k * stretch + begin)
        return _Windows(
            purpose=np.select(
                cases,
                [zero + Purpose.WHOLE_EPOCH, zero + Purpose.HEAD, zero + Purpose.TAIL],
                zero + Purpose.LANE_WINDOW,
            ),
            lane=np.select(cases, [zero, zero, zero], k),
            number=np.select(cases, [zero, zero, zero], number),
            start=start,
            size=np.select(cases, [zero + N, head, tail], size),
            offset=np.select(cases, [j, j, j - (N - tail)], t - begin),
        )

    def _lane_windows(self, t: Ints, k: Ints, stretch: Ints) -> tuple[Ints, Ints, Ints]:
        """Number, begin and size of the window around index t of lane k; windows of lanes are staggered in time."""
        W, G = self._window, self._group
        first = -G * (k * (W // G) // self._lanes) % W
        since = (t - first) // W
        begin = np.maximum(first + since * W, 0)
        return since + (first > 0), begin, np.minimum(first + (since + 1) * W, stretch) - begin

    def _samples_of_stream(self, epoch: int, positions: Ints) -> Ints:
        """The y at each position of the epoch's stream: its spans, permuted."""
        ends = self._stream_ends(epoch)
        at = np.searchsorted(ends, positions, side="right")
        distinct, which = np.unique(at, return_inverse=True)  # samples of a window share a few spans
        spans = self._permuted_spans(epoch, distinct)[which]
        return self._span_starts(spans) + positions - (ends[at] - self._span_sizes(spans))

    def _stream_ends(self, epoch: int) -> Ints:
        """Cumulative counts of the epoch's spans in their permuted order."""
        with self._lock:
            if epoch not in self._streams:
                while len(self._streams) >= min(_EPOCHS_HELD, self.epochs_ahead):
                    del self._streams[next(iter(self._streams))]
                ends = self._streams[epoch] = np.empty(self._all_spans, np.int64)
                for part, spans in self._all_permuted(epoch):
                    ends[part] = self._span_sizes(spans)
                np.cumsum(ends, out=ends)
            return self._streams[epoch]

    def _all_permuted(self, epoch: int) -> Iterator[tuple[slice, Ints]]:
        """The epoch's spans in their order, some at once: of millions, temporary arrays would be gigabytes."""
        for start in range(0, self._all_spans, _SPANS_AT_ONCE):
            part = slice(start, min(start + _SPANS_AT_ONCE, self._all_spans))
            yield part, self._permuted_spans(epoch, np.arange(part.start, part.stop))

    def _permuted_spans(self, epoch: int, positions: Ints) -> Ints:
        one = np.zeros(1, np.int64)
        key = permutation_key(self._seed, Purpose.SPANS, (one + epoch, one + self._corpus, one, one))
        return permute(key, np.full_like(positions, self._all_spans), positions)

    def _span_starts(self, spans: Ints) -> Ints:
        shard, f = np.divmod(spans, self._spans)
        return self._shard_starts[shard] + self._shards[shard] * f // self._spans

    def _span_sizes(self, spans: Ints) -> Ints:
        samples, f = self._shards[spans // self._spans], spans % self._spans
        return samples * (f + 1) // self._spans - samples * f // self._spans
