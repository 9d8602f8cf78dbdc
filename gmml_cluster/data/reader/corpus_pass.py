"""A pass over a corpus in index order: whole images, resized, as a map of attention wants them.

Dims: n images, S side of an image.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.reader.decode import BadImage
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.views import read_image
from gmml_cluster.spec.job import Data

_CHUNK = 32
"""Samples that a thread reads and decodes at once; neighbours in a shard share a request."""
_CHUNKS_A_THREAD = 3


@dataclass(frozen=True)
class WholeImages:
    """Some samples in a row.

    Attributes:
        images: uint8 (n, 3, S, S); 0 where the sample is bad.
        good: bool (n,).
    """

    images: NDArray[np.uint8]
    good: NDArray[np.bool_]


class CorpusPass:
    """Reads samples in order, ahead of their use.

    Args:
        pin: the run's corpora.
        data: side of the images, and which are bad.
        threads: threads that read and decode.
    """

    def __init__(self, pin: Pin, data: Data, threads: int) -> None:
        self._data, self._ahead = data, _CHUNKS_A_THREAD * threads
        self._fetcher = Fetcher(pin, reads=4 * threads)
        # twice as many as decode: half of them wait for the store
        self._pool = ThreadPoolExecutor(2 * threads, thread_name_prefix="corpus-pass")

    def batches(self, corpus: int, samples: range, size: int) -> Iterator[WholeImages]:
        """Whole images of a corpus, `size` at a time, the last batch perhaps smaller.

        Raises:
            StorageError: a store does not answer, or a shard changed since it was pinned.
        """
        chunks = (part[at : at + _CHUNK] for part in _cut(samples, size) for at in range(0, len(part), _CHUNK))
        waiting: deque[Future[WholeImages]] = deque()
        try:
            for part in _cut(samples, size):
                held: list[WholeImages] = []
                while sum(len(each.good) for each in held) < len(part):
                    for chunk in islice(chunks, self._ahead - len(waiting)):
                        waiting.append(self._pool.submit(self._read, corpus, chunk))
                    held.append(waiting.popleft().result())
                yield _joined(held)
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Drop what was requested and join the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._fetcher.close()

    def _read(self, corpus: int, samples: range) -> WholeImages:
        wanted, side = [Wanted(corpus, y) for y in samples], self._data.image_size
        images, good = np.zeros((len(wanted), side, side, 3), np.uint8), np.ones(len(wanted), bool)
        for slot, (sample, encoded) in enumerate(zip(wanted, self._fetcher.fetch(wanted), strict=True)):
            try:
                pixels = read_image(self._data, sample, encoded).pixels
            except BadImage:
                self._fetcher.demand_unchanged(sample)
                good[slot] = False
            else:
                # Pillow computes in fixed point: the same bytes on every machine
                images[slot] = np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR))
        return WholeImages(images.transpose(0, 3, 1, 2), good)


def _cut(samples: range, size: int) -> Iterator[range]:
    return (samples[at : at + size] for at in range(0, len(samples), size))


def _joined(parts: Sequence[WholeImages]) -> WholeImages:
    images, good = ([getattr(part, name) for part in parts] for name in ("images", "good"))
    return WholeImages(np.concatenate(images), np.concatenate(good))
