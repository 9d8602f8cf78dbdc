"""The images of a rank, step after step, made ahead of the training in threads (DESIGN section 4).

Which images, and which crops, is a function of the order and the numbers alone; threads only decide when.
"""

import logging
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.random.philox import Ints, Words
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.crop import crop_box, crop_words, resize
from gmml_cluster.data.reader.decode import BadImage, Pixels, decode
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.order import Order
from gmml_cluster.plan.sample_layout import SampleLayout, groups_of_rank
from gmml_cluster.spec.job import Data

STEPS_AHEAD = 3
STEPS_PLANNED = 16
_CHUNK_SAMPLES = 16
_CACHE_BYTES = 256 * 2**20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class HostBatch:
    """A rank's images of one step."""

    step: int
    numbers: Ints
    """int64 (n,): sample numbers, whole groups, upwards."""
    images: NDArray[np.uint8]
    """uint8 (n, views, 3, size, size): cropped and resized, not flipped."""
    bad: tuple[Wanted, ...] = ()
    """Bad samples that these numbers drew and no number before them did; the next good y stands in for each."""
    unchecked: int = 0
    """Samples read without a CRC to check them."""
    wait_s: float = 0.0
    """How long `next()` had to wait."""


@dataclass(frozen=True)
class _Planned:
    """What some steps in a row need, before anything is read."""

    samples: Sequence[Wanted]
    first: Sequence[bool]
    """Whether a sample is drawn for the first time: in epoch 0 of its corpus."""
    words: Words


@dataclass
class _Met:
    """What a task met beside good samples."""

    bad: list[Wanted] = field(default_factory=list)
    """Bad ones, drawn for the first time."""
    unchecked: int = 0


@dataclass(frozen=True)
class _Ahead:
    """A step in the making."""

    step: int
    numbers: Ints
    images: NDArray[np.uint8]
    chunks: list["Future[_Met]"] = field(default_factory=list)


class Stream:
    """Batches of a rank from a step on, in order; at most `STEPS_AHEAD` are held or in the making.

    Args:
        order: the run's order.
        pin: its corpora.
        data: what is done to images.
        seed: the run's.
        views: crops an image.
        ranks: number of ranks.
        rank: this one.
        first_step: the step of the first batch.
        threads: threads that read and decode.

    Raises:
        SpecError: there are more ranks than lanes.
    """

    def __init__(
        self,
        order: Order,
        pin: Pin,
        data: Data,
        *,
        seed: int,
        views: int,
        ranks: int,
        rank: int,
        first_step: int,
        threads: int = 2,
    ) -> None:
        self._order, self._pin, self._data, self._seed, self._views = order, pin, data, seed, views
        self._ranks, self._rank = ranks, rank
        self._first_step = self._next_step = first_step
        self._samples = groups_of_rank(order.layout, ranks, rank) * order.layout.group
        self._fetcher = Fetcher(pin, cache_bytes(pin, order.layout, ranks))
        self._limit = Limit(pin, data.max_bad)
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._ahead: deque[_Ahead] = deque()
        while len(self._ahead) < STEPS_AHEAD:
            self._begin()

    def next(self) -> HostBatch:
        """The batch of the next step.

        Raises:
            DataError: too many bad samples follow each other; names shard and member.
            StorageError: a store does not answer, a sample disagrees with its index, or its shard changed.
        """
        began = time.monotonic()
        ahead = self._ahead[0]
        met = [chunk.result() for chunk in ahead.chunks]
        waited = time.monotonic() - began
        self._ahead.popleft()
        self._begin()
        bad = tuple(sample for part in met for sample in part.bad)
        unchecked = sum(part.unchecked for part in met)
        return HostBatch(ahead.step, ahead.numbers, ahead.images, bad, unchecked, waited)

    def close(self) -> None:
        """Stop reading ahead and join the threads."""
        self._fetcher.close()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _begin(self) -> None:
        """Set the threads to one more step. Plans are tasks before their chunks, so no chunk waits for a thread."""
        step, size = self._next_step, self._data.image_size
        planned = (step - self._first_step) % STEPS_PLANNED
        if planned == 0:
            self._plans = self._pool.submit(self._plan, step)
        numbers = self._order.rank_numbers(step, self._ranks, self._rank)
        images = np.empty((len(numbers), self._views, 3, size, size), np.uint8)
        ahead = _Ahead(step, numbers, images)
        for first in range(0, len(numbers), _CHUNK_SAMPLES):
            last = min(first + _CHUNK_SAMPLES, len(numbers))
            part = slice(planned * len(numbers) + first, planned * len(numbers) + last)
            ahead.chunks.append(self._pool.submit(self._fill, self._plans, part, images[first:last]))
        self._ahead.append(ahead)
        self._next_step += 1

    def _plan(self, first_step: int) -> _Planned:
        """The plan of `STEPS_PLANNED` steps: a call costs far more than a sample."""
        steps = range(first_step, first_step + STEPS_PLANNED)
        numbers = np.concatenate([self._order.rank_numbers(step, self._ranks, self._rank) for step in steps])
        places = self._order.places(numbers)
        samples = [Wanted(c, y) for c, y in zip(places.corpus.tolist(), places.y.tolist(), strict=True)]
        return _Planned(samples, (places.epoch == 0).tolist(), crop_words(self._seed, numbers, self._views))

    def _fill(self, plan: "Future[_Planned]", part: slice, images: NDArray[np.uint8]) -> _Met:
        """Read, decode and crop some samples of a step into their place."""
        planned = plan.result()
        samples, first = planned.samples[part], planned.first[part]
        met = _Met(unchecked=sum(not self._fetcher.is_checked(sample) for sample in samples))
        for slot, data in enumerate(self._fetcher.fetch(samples)):
            image = self._decode(samples[slot], data, first[slot], met)
            height, width = image.shape[:2]
            for view, drawn in enumerate(planned.words[part][slot]):
                box = crop_box(drawn, height, width, self._data.augment.crop)
                images[slot, view] = resize(image, box, self._data.image_size)
        return met

    def _decode(self, sample: Wanted, data: bytes, first: bool, met: _Met) -> Pixels:
        """The sample's image, or that of the next good one in index order."""
        passed: list[Wanted] = []
        while True:
            try:
                return decode(data, self._data.max_pixels)
            except BadImage as error:
                self._fetcher.demand_unchanged(sample)
                if first and not passed:
                    _log.warning("%s: a bad sample: %s", self._pin.locate(sample.corpus, sample.y), error)
                    met.bad.append(sample)
                passed.append(sample)
                sample = self._limit.next_after(sample, passed)
                data = self._fetcher.fetch([sample])[0]


def cache_bytes(pin: Pin, layout: SampleLayout, ranks: int) -> int:
    """Memory for whole blocks of object stores: 256 MiB where a rank's open windows fit into it, else none."""
    means = [sum(s.file.size for s in c.shards) / sum(s.samples for s in c.shards) for c in pin.corpora]
    lanes = -(-layout.lanes // ranks)
    return _CACHE_BYTES if 2 * lanes * layout.window * max(means) <= _CACHE_BYTES else 0
