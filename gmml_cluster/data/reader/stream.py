"""The images of a rank, step after step, prepared ahead of the training in threads.

Which images, and which crops, is a function of the order and the sample numbers alone; threads only decide when. One
thread plans steps and requests their bytes, as far ahead as `data.read_ahead` allows; a pool waits for the store
(fetch.py); a pool decodes the next three steps. No decode thread waits for a store, except for what replaces a bad
sample.
"""

import itertools
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.node_cache.cache import CacheFigures, NodeCache
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.fetch import Chunk, Fetcher, Wanted
from gmml_cluster.data.reader.map_table import MapTable, ViewMaps
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.planner import Planner
from gmml_cluster.data.reader.reads import REMOTE, Encoded
from gmml_cluster.data.reader.views import Part, Views
from gmml_cluster.plan.sample_layout import SampleLayout, groups_of_rank
from gmml_cluster.running_time import running_time
from gmml_cluster.spec.job import Data

STEPS_AHEAD = 3
"""Steps whose images are held or being decoded."""
_MOST_STEPS_PLANNED = 16
_SAMPLES_PLANNED = 2048
"""Samples that are planned in one call: enough to make its overhead small, few enough for a quick start."""
_SAMPLES_AHEAD = 8192
"""Samples requested ahead where bytes do not limit it sooner: seconds of training, at hundreds of bytes a sample."""
_MOST_STEPS_AHEAD = 64
"""With a handful of samples a step, planning 8,192 samples would be a thousand steps: their planning is Python that
takes the interpreter lock from the loop."""
_LEAST_CHUNK_SAMPLES, _MOST_CHUNK_SAMPLES = 16, 64
_LEAST_CHUNK_BYTES, _MOST_SMALL_SAMPLES = 2**18, 128
"""Small images: a chunk has as many as these bytes hold, as its arrays and locks take as long as several of them."""
_READS_A_THREAD, _MOST_REMOTE_READS = 128, 256
_LOCAL_READS = 4


@dataclass(frozen=True)
class HostBatch:
    """A rank's images of one step."""

    step: int
    numbers: Ints
    """int64 (n,): sample numbers, whole groups, ascending."""
    images: NDArray[np.uint8]
    """uint8 (n, views, 3, size, size): cropped and resized, not flipped."""
    bad: tuple[Wanted, ...] = ()
    """Bad samples that these numbers drew and no number before them did; the next good y replaces each."""
    unchecked: int = 0
    """Samples read without a CRC to check them."""
    wait_s: float = 0.0
    """How long `next()` had to wait."""
    damaged: int = 0
    """JPEGs whose data the decoder found corrupt, though it returned pixels."""
    reads_in_flight: int = 0
    """Requests to the corpora's stores that were waiting for an answer when the batch was delivered."""
    read_ahead_bytes: int = 0
    """Encoded bytes of later samples that had arrived and waited to be decoded."""
    labels: Ints | None = None
    """int64 (n,): classes of the samples whose images these are; None where they were not asked for."""
    maps: NDArray[np.uint8] | None = None
    """uint8 (n, views, patches): maps of attention, 1 to 255, cut to the views; None before AMT masks by them."""
    map_pass: int | None = None
    """Which pass over the corpora made the maps, from 1; 0 before AMT masks by them, None where nothing does."""
    masks: NDArray[np.uint8] | None = None
    """uint8 (n, size, size): classes of the pixels of the first views, not flipped; None where not asked for."""
    cache: CacheFigures | None = None
    """What the node's cache did for this rank since the batch before; None where there is none."""


@dataclass(eq=False)
class _Step:
    """A planned step; `images` are allocated when it is among the next `STEPS_AHEAD`."""

    step: int
    numbers: Ints
    parts: list[Part]
    unchecked: int
    labels: Ints | None
    images: NDArray[np.uint8] | None = None
    masks: NDArray[np.uint8] | None = None
    maps: ViewMaps | None = None


class Stream:
    """Batches of a rank from a step on, in order; at most `STEPS_AHEAD` are held or being decoded.

    Args:
        order: the run's order.
        pin: its corpora.
        data: what is done to images.
        seed: the run's.
        views: crops an image.
        ranks: number of ranks.
        rank: this one.
        first_step: the step of the first batch.
        threads: threads that decode.
        read_ahead_bytes: memory for encoded images ahead of the decode threads.
        labels: whether batches carry the samples' classes.
        mask_table: the class of each of the 256 values of a mask, -1 for none; None where batches carry no masks.
        maps: of the images, where the method masks by them; a step whose maps are not made yet is not decoded.
        node_cache: keeps what is read on the node's disk.

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
        read_ahead_bytes: int = 2**28,
        labels: bool = False,
        mask_table: Sequence[int] | None = None,
        maps: MapTable | None = None,
        node_cache: NodeCache | None = None,
    ) -> None:
        self._order, self._data, self._views = order, data, views
        self._ranks, self._rank, self._maps = ranks, rank, maps
        self._first_step = self._next_step = first_step
        samples = groups_of_rank(order.layout, ranks, rank) * order.layout.group
        self._planned_steps = max(1, min(_SAMPLES_PLANNED // samples, _MOST_STEPS_PLANNED))
        ahead = min(-(-_SAMPLES_AHEAD // samples), _MOST_STEPS_AHEAD)
        self._steps_ahead = max(STEPS_AHEAD + self._planned_steps, ahead)
        self._chunk_samples = chunk_samples(pin, samples, threads)
        cached = cache_bytes(pin, order.layout, ranks, read_ahead_bytes)
        self._node_cache = node_cache
        if node_cache is not None:
            node_cache.step = first_step
        self._fetcher = Fetcher(
            pin,
            cached,
            ahead_bytes=read_ahead_bytes - cached,
            reads=_reads_at_once(pin, threads),
            node_cache=node_cache,
        )
        self._masks = mask_table is not None
        table = None if mask_table is None else np.array(mask_table, np.int16)
        self._images = Views(pin, data, self._fetcher, table)
        self._sample_planner = Planner(order, self._fetcher, data, seed, views, labels, self._masks)
        self._decoding = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._steps: deque[_Step] = deque()
        self._error: BaseException | None = None
        self._closed = False
        self._changed = threading.Condition()
        # a daemon, so that a process that ends without `close` does not wait for it
        self._planner = threading.Thread(target=self._read_ahead, name="read-ahead", daemon=True)
        self._planner.start()

    def next(self) -> HostBatch:
        """The batch of the next step.

        Raises:
            DataError: too many bad samples follow each other; names shard and member.
            StorageError: a store does not answer, a sample disagrees with its index, or its shard changed.
        """
        began = running_time()
        with self._changed:
            self._changed.wait_for(lambda: self._steps or self._error)
            if not self._steps and self._error is not None:
                raise self._error
            step = self._steps[0]
        met = [part.filled.result() for part in step.parts]
        waited = running_time() - began
        assert step.images is not None
        with self._changed:
            self._steps.popleft()
            self._next_step += 1
            if self._node_cache is not None:
                self._node_cache.step = step.step
            self._decode_next_steps()
            self._changed.notify_all()
        return HostBatch(
            step.step,
            step.numbers,
            step.images,
            bad=tuple(sample for part in met for sample in part.bad),
            unchecked=step.unchecked,
            wait_s=waited,
            damaged=sum(part.damaged for part in met),
            reads_in_flight=self._fetcher.in_flight,
            read_ahead_bytes=self._fetcher.ready_bytes,
            labels=step.labels,
            masks=step.masks,
            maps=None if step.maps is None else step.maps.maps,
            map_pass=None if self._maps is None else self._maps.pass_of(step.step),
            cache=None if self._node_cache is None else self._node_cache.take_figures(),
        )

    def maps_made(self) -> None:
        """The table of maps has those of the next step by now."""
        with self._changed:
            self._decode_next_steps()

    def close(self) -> None:
        """Stop reading ahead and join the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._fetcher.close()
        self._decoding.shutdown(wait=True, cancel_futures=True)
        self._planner.join()

    def _read_ahead(self) -> None:
        """Plan steps and request their bytes until the stream is closed; an error goes to `next`."""
        waiting: list[Part] = []
        try:
            for first in itertools.count(self._first_step, self._planned_steps):
                if not self._await_turn(first):
                    return
                steps = self._plan(first)
                waiting = [part for step in steps for part in step.parts]
                with self._changed:
                    self._steps.extend(steps)
                    self._decode_next_steps()
                    self._changed.notify_all()
                for group in _groups([part.chunk for part in waiting], self._fetcher.group_bytes):
                    if not self._fetcher.begin(group):
                        return
                    del waiting[: len(group)]
        except BaseException as error:
            for part in waiting:
                part.filled.set_exception(error)
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _await_turn(self, step: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or step < self._next_step + self._steps_ahead)
            return not self._closed

    def _plan(self, first_step: int) -> list[_Step]:
        """What the next steps need, before anything of it is read."""
        steps = range(first_step, first_step + self._planned_steps)
        of_steps = [self._order.rank_numbers(step, self._ranks, self._rank) for step in steps]
        plan = self._sample_planner.plan(np.concatenate(of_steps))
        planned, before = [], 0
        for step, own in zip(steps, of_steps, strict=True):
            parts = []
            for start in range(0, len(own), self._chunk_samples):
                inside = slice(start, min(start + self._chunk_samples, len(own)))
                parts.append(plan.part(slice(before + inside.start, before + inside.stop), inside))
            of_step = slice(before, before + len(own))
            labels = None if plan.labels is None else plan.labels[of_step]
            planned.append(_Step(step, own, parts, plan.pieces.part(of_step).unchecked, labels))
            before = of_step.stop
        return planned

    def _decode_next_steps(self) -> None:
        """Allocate the images of the next steps and decode their chunks as they arrive. The caller holds the lock."""
        size = self._data.image_size
        for step in itertools.islice(self._steps, STEPS_AHEAD):
            if self._maps is not None and not self._maps.ready(step.step):
                return
            if step.images is None:
                step.images = np.empty((len(step.numbers), self._views, 3, size, size), np.uint8)
                step.masks = np.empty((len(step.numbers), size, size), np.uint8) if self._masks else None
                if self._maps is not None:
                    step.maps = self._maps.of_step(step.step, step.numbers, self._views)
                for part in step.parts:
                    masks = None if step.masks is None else step.masks[part.samples]
                    maps = None if step.maps is None else step.maps.part(part.samples)
                    self._decode_when_fetched(part, step.images[part.samples], masks, maps)

    def _decode_when_fetched(
        self, part: Part, images: NDArray[np.uint8], masks: NDArray[np.uint8] | None, maps: ViewMaps | None
    ) -> None:
        def begin(fetched: "Future[list[Encoded]]") -> None:
            with suppress(RuntimeError):  # the stream was closed
                self._decoding.submit(self._fill, part, fetched, images, masks, maps)

        part.chunk.fetched.add_done_callback(begin)

    def _fill(
        self,
        part: Part,
        fetched: "Future[list[Encoded]]",
        images: NDArray[np.uint8],
        masks: NDArray[np.uint8] | None,
        maps: ViewMaps | None,
    ) -> None:
        """Decode and crop a chunk into its images and masks, and cut their maps."""
        try:
            part.filled.set_result(self._images.fill(part, fetched.result(), images, masks, maps))
        except BaseException as error:  # `next` raises it
            part.filled.set_exception(error)
        finally:
            self._fetcher.release(part.chunk)


def _groups(chunks: Sequence[Chunk], most_bytes: int) -> Iterator[list[Chunk]]:
    """Chunks in a row whose samples have at most so many bytes together; at least one chunk a group."""
    group: list[Chunk] = []
    held = 0
    for chunk in chunks:
        size = sum(chunk.pieces.lengths)
        if group and held + size > most_bytes:
            yield group
            group, held = [], 0
        group.append(chunk)
        held += size
    if group:
        yield group


def _reads_at_once(pin: Pin, threads: int) -> int:
    """Requests in flight.

    A decode thread takes 200 to 350 photographs a second, each of them a request: at 150 ms of latency some 50 must be
    in flight for it, and more after a pause; 64 were too few (benchmarks/README.md).
    """
    if not any(corpus.shards[0].file.url.startswith(REMOTE) for corpus in pin.corpora):
        return _LOCAL_READS
    return min(_READS_A_THREAD * threads, _MOST_REMOTE_READS)


def cache_bytes(pin: Pin, layout: SampleLayout, ranks: int, memory_bytes: int) -> int:
    """Memory for whole blocks of object stores: half of all where a rank's open windows fit into it, else none.

    A window's samples are read in random order: without its blocks in memory, small samples would be a request each.
    """
    lanes = -(-layout.lanes // ranks)
    half = memory_bytes // 2
    return half if 2 * lanes * layout.window * _sample_bytes(pin) <= half else 0


def chunk_samples(pin: Pin, samples: int, threads: int) -> int:
    """Samples that a thread decodes at once: small enough for all threads to have some of each step.

    Args:
        pin: the corpora.
        samples: of the rank in a step.
        threads: that decode.
    """
    few = min(max(-(-samples // (2 * threads)), _LEAST_CHUNK_SAMPLES), _MOST_CHUNK_SAMPLES)
    small = min(int(_LEAST_CHUNK_BYTES / _sample_bytes(pin)), -(-samples // threads), _MOST_SMALL_SAMPLES)
    return max(few, small)


def _sample_bytes(pin: Pin) -> float:
    """Mean bytes of a sample in its shard, of the corpus that has the largest ones."""
    return max(int(c.shards.sizes.sum()) / int(c.shards.samples.sum()) for c in pin.corpora)
