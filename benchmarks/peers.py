"""Torch's DataLoader in a process of its own, for `benchmarks.reading`.

It is given the encoded images in memory, the best case for it, as it reads nothing; draws a crop, resizes it to a view
and makes batches of uint8 (n, 3, S, S). Images are decoded and resized as by this project (simplejpeg and OpenCV), or
by Pillow, as the library's users do. Workers are processes.
"""

import argparse
import glob
import io
import os
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gmml_cluster.data.reader.decode import decode

AHEAD = 8
"""Batches that a loader may have made before its turn."""
_SCALE, _RATIO = (0.2, 1.0), (3 / 4, 4 / 3)
View = NDArray[np.uint8]


@dataclass(frozen=True)
class Transform:
    """From encoded bytes to a view: a random resized crop."""

    size: int
    our_decoder: bool

    def __call__(self, data: bytes) -> View:
        """The view of one image."""
        if self.our_decoder:
            pixels = decode(data, 10**8)
            top, left, height, width = _crop(*pixels.shape[:2])
            part = pixels[top : top + height, left : left + width]
            view = cv2.resize(part, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        else:
            image = Image.open(io.BytesIO(data)).convert("RGB")
            top, left, height, width = _crop(image.height, image.width)
            box = (left, top, left + width, top + height)
            view = np.asarray(image.resize((self.size, self.size), Image.Resampling.BICUBIC, box))
        return np.ascontiguousarray(view.transpose(2, 0, 1))


def _crop(height: int, width: int) -> tuple[int, int, int, int]:
    area = height * width * np.random.uniform(*_SCALE)
    ratio = np.exp(np.random.uniform(*np.log(_RATIO)))
    h, w = min(height, round((area / ratio) ** 0.5)), min(width, round((area * ratio) ** 0.5))
    return np.random.randint(height - h + 1), np.random.randint(width - w + 1), h, w


def torch_loader(encoded: Sequence[bytes], transform: Transform, batch: int, workers: int) -> Iterator[Any]:
    """A DataLoader over a dataset with random access."""
    from torch.utils.data import DataLoader, Dataset

    class Images(Dataset[View]):
        def __len__(self) -> int:
            return len(encoded)

        def __getitem__(self, index: int) -> View:
            return transform(encoded[index])

    order = np.random.default_rng(1)
    batches = (order.integers(len(encoded), size=batch).tolist() for _ in count())
    return iter(DataLoader(Images(), batch_sampler=batches, num_workers=workers, prefetch_factor=2))  # type: ignore[arg-type]


def rate(batches: Iterator[Any], size: int, counted: int) -> float:
    """Images a second over some batches; those that were made before the turn began are not counted.

    Returns when the loader has had the time to make as many again, else it would do so in the turn of another.
    """
    for _ in islice(batches, AHEAD):
        pass
    began = time.monotonic()
    for _ in islice(batches, counted):
        pass
    seconds = time.monotonic() - began
    time.sleep(1.5 * AHEAD * seconds / counted)
    return counted * size / seconds


def main() -> None:
    """Print a rate for each number of batches that standard input gives, until it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("decoder", choices=("ours", "Pillow"))
    parser.add_argument("shards")
    for name in ("samples", "size", "batch", "workers"):
        parser.add_argument(name, type=int)
    given = parser.parse_args()
    transform = Transform(given.size, given.decoder == "ours")
    images = list(islice(encoded_images(given.shards), given.samples))
    batches = torch_loader(images, transform, given.batch, given.workers)
    for line in sys.stdin:
        print(rate(batches, given.batch, int(line)), flush=True)
    os._exit(0)  # its own shutdown waits for workers that are in the middle of a batch


def encoded_images(shards: str) -> Iterator[bytes]:
    """The images of tar files, as stored."""
    for path in sorted(glob.glob(shards)):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member) if member.name.endswith((".jpg", ".png", ".JPEG")) else None
                if file is not None:
                    yield file.read()


if __name__ == "__main__":
    main()
