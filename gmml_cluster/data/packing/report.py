"""What was packed: of one shard, as its worker notes it, and of the whole corpus."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus.listing import SHARD_SUFFIX
from gmml_cluster.outputs.corpus import PackedOutput

NUMBER_DIGITS = 6


@dataclass(frozen=True, order=True)
class Remark:
    """What is to be said of an image; sorts by reason, then by name."""

    reason: str
    image: str
    """Its name in the source."""

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"

    @classmethod
    def read(cls, text: str) -> "Remark":
        """The remark that was written as `str` does, as far as that is known where names have colons."""
        image, _, reason = text.partition(": ")
        return cls(reason, image)


@dataclass
class ShardRecord:
    """What became of one shard's samples."""

    number: int
    size: int = 0
    """Bytes of the shard."""
    version: str = ""
    """The shard's version in its store."""
    samples: int = 0
    left_out: list[Remark] = field(default_factory=list)
    damaged: list[Remark] = field(default_factory=list)
    labels: Counter[int] = field(default_factory=Counter)
    masks: int = 0
    mask_values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels of each value of the masks."""
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 3)))
    """Sums over the images of their mean and mean square by channel, RGB in [0, 1]."""

    def to_json(self) -> dict[str, Any]:
        """Plain mapping; `from_json` reads it back to the bit."""
        return {
            "number": self.number,
            "size": self.size,
            "version": self.version,
            "samples": self.samples,
            "left_out": [[remark.reason, remark.image] for remark in self.left_out],
            "damaged": [[remark.reason, remark.image] for remark in self.damaged],
            "labels": sorted(self.labels.items()),
            "masks": self.masks,
            "mask_values": self.mask_values.nonzero()[0].tolist(),
            "sums": self.sums.tolist(),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "ShardRecord":
        """The record that `to_json` wrote; of mask values, which there are."""
        values = np.zeros(256, np.int64)
        values[given["mask_values"]] = 1
        left_out, damaged = ([Remark(*pair) for pair in given[name]] for name in ("left_out", "damaged"))
        return cls(
            number=given["number"],
            size=given["size"],
            version=given["version"],
            samples=given["samples"],
            left_out=left_out,
            damaged=damaged,
            labels=Counter(dict(given["labels"])),
            masks=given["masks"],
            mask_values=values,
            sums=np.array(given["sums"]),
        )


@dataclass
class Packed:
    """What was packed."""

    shards: list[str] = field(default_factory=list)
    """Names of the shards."""
    samples: int = 0
    left_out: list[Remark] = field(default_factory=list)
    """Images that cannot be decoded, by reason."""
    damaged: list[Remark] = field(default_factory=list)
    """Images that were packed and whose JPEG data is damaged, by kind of damage."""
    labels: Counter[int] = field(default_factory=Counter)
    """Samples of each class; -1 counts those without one."""
    masks: int = 0
    """Samples with a mask."""
    mask_values: tuple[int, ...] = ()
    """Values that the masks have."""
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Mean by channel; every image counts alike."""
    std: tuple[float, ...] = (0.0, 0.0, 0.0)
    """Standard deviation by channel; every image counts alike."""
    classes: tuple[str, ...] = ()
    """Names of the classes, where the source named them."""
    notes: tuple[str, ...] = ()
    """As of the source."""

    @property
    def braces(self) -> str:
        """The shards' names as one pattern."""
        first, last = self.shards[0], self.shards[-1]
        start = len(first) - len(SHARD_SUFFIX) - NUMBER_DIGITS
        if first == last:
            return first
        return (
            f"{first[:start]}{{{first[start : -len(SHARD_SUFFIX)]}..{last[start : -len(SHARD_SUFFIX)]}}}{SHARD_SUFFIX}"
        )

    def to_json(self, url: str) -> PackedOutput:
        """The document of `--json` and `packed.json`; `from_json` reads it back."""
        return {
            "version": 1,
            "url": f"{url.rstrip('/')}/{self.braces}",
            "shards": self.shards,
            "samples": self.samples,
            "classes": {str(label): count for label, count in sorted(self.labels.items())},
            "class_names": list(self.classes),
            "masks": self.masks,
            "mask_values": list(self.mask_values),
            "notes": list(self.notes),
            "left_out": [str(remark) for remark in self.left_out],
            "damaged": [str(remark) for remark in self.damaged],
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "Packed":
        """The corpus that `to_json` wrote down."""
        return cls(
            shards=list(given["shards"]),
            samples=given["samples"],
            left_out=[Remark.read(text) for text in given["left_out"]],
            damaged=[Remark.read(text) for text in given["damaged"]],
            labels=Counter({int(label): count for label, count in given["classes"].items()}),
            masks=given["masks"],
            mask_values=tuple(given["mask_values"]),
            mean=tuple(given["mean"]),
            std=tuple(given["std"]),
            classes=tuple(given["class_names"]),
            notes=tuple(given["notes"]),
        )


class Tally:
    """Sums up records in whatever order they come; the result does not depend on it.

    Args:
        shards: names of all shards.
    """

    def __init__(self, shards: list[str]) -> None:
        self._packed = Packed(shards)
        self._mask_values = np.zeros(256, np.int64)
        self._sums = np.zeros((len(shards), 2, 3))  # added up at the end, as the order of sums decides their last bits

    @property
    def samples(self) -> int:
        """Samples of the shards that were added."""
        return self._packed.samples

    @property
    def left_out(self) -> list[Remark]:
        """What was left out of them."""
        return self._packed.left_out

    def add(self, record: ShardRecord) -> None:
        """Count a shard in."""
        packed = self._packed
        packed.samples += record.samples
        packed.left_out += record.left_out
        packed.damaged += record.damaged
        packed.labels += record.labels
        packed.masks += record.masks
        self._mask_values += record.mask_values
        self._sums[record.number] = record.sums

    def result(self, classes: tuple[str, ...], notes: tuple[str, ...]) -> Packed:
        """The whole corpus."""
        packed = self._packed
        mean, square = self._sums.sum(axis=0) / max(packed.samples, 1)
        packed.mean = tuple(float(value) for value in mean)
        packed.std = tuple(math.sqrt(max(float(s) - float(m) ** 2, 0.0)) for s, m in zip(square, mean, strict=True))
        packed.mask_values = tuple(self._mask_values.nonzero()[0].tolist())
        packed.classes, packed.notes = classes, notes
        packed.left_out.sort()
        packed.damaged.sort()
        return packed
