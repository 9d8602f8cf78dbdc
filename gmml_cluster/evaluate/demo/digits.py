"""Scikit-learn's handwritten digits as a corpus of tar shards: `python -m gmml_cluster.evaluate.demo.digits DST`.

1,797 real digits, brought to 16 x 16: 1,297 to train on and 500 held out by one fixed split, stratified by class. Both
parts hold digits of the same writers; kNN on raw pixels reaches 97.8 % of the held-out ones.
"""

import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import cv2
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.packing.pack import Packed, pack
from gmml_cluster.data.packing.source import ImageSource, Item
from gmml_cluster.errors import GmmlError
from gmml_cluster.wording import counted

SIDE = 16
HELD_OUT = 500
SHARD_SAMPLES = 200
LEVELS = 16


@dataclass(frozen=True)
class Digits:
    """Some digits with their classes.

    Attributes:
        images: uint8 (n, 16, 16), bright ink on black.
        labels: int64 (n,), 0 to 9.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def load() -> Digits:
    """All 1,797 digits in the data set's order: 8 x 8 with levels 0 to 16 as they come, enlarged bilinearly."""
    from sklearn.datasets import load_digits

    found = load_digits()
    enlarged = [
        cv2.resize(image.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_LINEAR) for image in found.images
    ]
    pixels = np.rint(np.stack(enlarged) * (255 / LEVELS)).astype(np.uint8)
    return Digits(pixels, found.target.astype(np.int64))


def pack_digits(destination: Path) -> dict[str, Packed]:
    """Pack `train` (1,297) and `test` (500) into folders of that name under the destination.

    Raises:
        SpecError: something lies there.
    """
    return {name: _pack(name, part, destination / name) for name, part in split(load()).items()}


def split(digits: Digits) -> dict[str, Digits]:
    """The fixed split into `train` and 500 for `test`, equal shares of each class in both."""
    from sklearn.model_selection import train_test_split

    indices = np.arange(len(digits.labels))
    parts = train_test_split(indices, test_size=HELD_OUT, random_state=0, stratify=digits.labels)
    return {
        name: Digits(digits.images[part], digits.labels[part])
        for name, part in zip(("train", "test"), parts, strict=True)
    }


def _pack(name: str, digits: Digits, destination: Path) -> Packed:
    pairs = zip(digits.images, digits.labels, strict=True)
    items = [
        Item(f"{name}-{index:04d}", "png", int(label), partial(_png, image))
        for index, (image, label) in enumerate(pairs)
    ]
    return pack(ImageSource(tuple(items)), str(destination), shard_samples=SHARD_SAMPLES, prefix=name)


def _png(image: NDArray[np.uint8]) -> bytes:
    return cv2.imencode(".png", np.repeat(image[:, :, None], 3, axis=2))[1].tobytes()


@click.command("python -m gmml_cluster.evaluate.demo.digits")
@click.argument("destination", metavar="DST", type=click.Path(file_okay=False, path_type=Path))
def main(destination: Path) -> None:
    """Pack scikit-learn's digits into DST/train and DST/test, and print what a job needs to normalise them."""
    try:
        packed = pack_digits(destination)
    except GmmlError as error:
        click.echo(str(error), err=True)
        sys.exit(error.exit_code)
    for name, part in packed.items():
        click.echo(f"{destination / name}: {counted(part.samples, 'digit')} in {counted(len(part.shards), 'shard')}")
    mean, std = ([round(value, 4) for value in values] for values in (packed["train"].mean, packed["train"].std))
    click.echo(f"normalise: {{mean: {mean}, std: {std}}}")


if __name__ == "__main__":
    main()
