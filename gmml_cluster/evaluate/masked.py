"""Corpora with masks, and what a segmentation of them is worth.

Legend: K classes, H and W sides of a mask, S side the encoder reads, B images of a batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.evaluate.features import EvalCorpus
from gmml_cluster.evaluate.score import Score
from gmml_cluster.methods.segmentation import upsampled
from gmml_cluster.outputs.run import EvaluatedOutput
from gmml_cluster.spec.augment import Normalise
from gmml_cluster.spec.methods.segmentation import IGNORED
from gmml_cluster.store.protocol import Store

PARTS = 20
"""Parts of a corpus for the jackknife."""
AT_ONCE = 32
"""Images of a batch; logits at the size of a mask are made image by image."""

Pair = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@dataclass(frozen=True)
class MaskedCorpus(EvalCorpus):
    """Images with masks; all are of one class, 0.

    Attributes:
        pairs: decodes images and masks of some samples; a mask has 255 where a pixel does not count.
    """

    pairs: Callable[[Sequence[int]], Sequence[Pair]] = field(default=lambda _: ())


@dataclass(frozen=True)
class MaskScore(Score):
    """A mean intersection over union; `hits` are pixels of the right class, `samples` images.

    Attributes:
        iou: of each class; None for one that neither masks nor predictions have.
        pixel_accuracy: share of labelled pixels whose class was predicted.
        deviation: standard error of the mean by a jackknife over parts of the corpus.
    """

    iou: tuple[float | None, ...] = ()
    pixel_accuracy: float = 0.0
    deviation: float = 0.0

    @property
    def accuracy(self) -> float:
        """The mean over the classes that occur, in [0, 1]."""
        known = [value for value in self.iou if value is not None]
        return sum(known) / len(known)

    @property
    def error(self) -> float:
        """The deviation."""
        return self.deviation

    def to_json(self) -> EvaluatedOutput:
        """The score as `gmml eval --json` prints it, in percent; `accuracy` is the mean."""
        iou = [None if value is None else round(100 * value, 3) for value in self.iou]
        of_classes = {"metric": "mIoU", "pixel_accuracy": round(100 * self.pixel_accuracy, 3), "iou": iou}
        return cast(EvaluatedOutput, {**super().to_json(), **of_classes})


def read_masked(url: str, table: Sequence[int], indexes: Store | None = None, image: str | None = None) -> MaskedCorpus:
    """The corpus at `url`; samples without a mask are left out.

    Args:
        url: shards as a job names them.
        table: class of each of the 256 values of a mask.
        indexes: where indexes may lie that are not beside their shards.
        image: field of the images, as `image` of a corpus in a job file.

    Raises:
        DataError: no sample has a mask, or one of the first looked at has a value that is no class.
    """
    samples, values = Samples(url, indexes, image), np.array(table, np.int16)
    known = torch.from_numpy(samples.masked().nonzero()[0])
    if not len(known):
        hint = "pack images with masks (gmml corpus pack --masks), or index an older corpus by index --anew"
        raise DataError(Fault(url, "no sample has a mask; segmentation needs them", hint))
    if found := samples.unknown_value(values):
        hint = "gmml eval: --classes, --zero-ignored say which values masks have"
        raise DataError(Fault("--classes", f"{found[0]}: its mask has the value {found[1]}, which is no class", hint))
    return MaskedCorpus(
        url,
        known,
        torch.zeros(len(known), dtype=torch.int64),
        samples.images,
        samples.shards(),
        samples.contents(),
        samples.identity,
        pairs=lambda some: samples.pairs(some, values),
    )


def dense_settings(classes: int, image_size: int, *, zero_ignored: bool) -> dict[str, float | int]:
    """What an mIoU depends on beside its corpora; without it `gmml compare` would show unlike scores in one column."""
    return {"classes": classes, "image_size": image_size, **({"zero_ignored": 1} if zero_ignored else {})}


def squeezed(pairs: Sequence[Pair], size: int, normalise: Normalise, device: torch.device) -> Tensor:
    """Whole images as the encoder reads them, float32 (B, 3, S, S): squeezed to a square, bicubic."""
    squares = [np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC)) for image, _ in pairs]
    return on_device(np.stack(squares), normalise, device)


def on_device(pixels_BSS3: NDArray[np.uint8], normalise: Normalise, device: torch.device) -> Tensor:
    """Images normalised, float32 (B, 3, S, S)."""
    pixels = torch.from_numpy(pixels_BSS3).to(device)
    mean, std = (torch.tensor(values, device=device) for values in (normalise.mean, normalise.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


class Confusion:
    """Labelled pixels by class and predicted class, for each of `PARTS` parts of a corpus."""

    def __init__(self, classes: int) -> None:
        self.classes, self.images = classes, 0
        self.pixels = np.zeros((PARTS, classes, classes), np.int64)

    def add(self, maps_KGG: Tensor, mask: NDArray[np.uint8]) -> None:
        """Count an image whose classes are those with the greatest of the maps, of any sides, upsampled to its mask."""
        predicted = upsampled(maps_KGG[None], *mask.shape)[0].argmax(0).cpu().numpy()
        labelled = mask != IGNORED
        cells = self.classes * mask[labelled].astype(np.int64) + predicted[labelled]
        counts = np.bincount(cells, minlength=self.classes**2)
        self.pixels[self.images % PARTS] += counts.reshape(self.classes, self.classes)
        self.images += 1

    def score(self, name: str, feature: str, settings: dict[str, float | int], *, main: bool = True) -> MaskScore:
        """What was counted."""
        total, parts = self.pixels.sum(0), self.pixels[: min(PARTS, self.images)]
        means = np.array([np.nanmean(_iou(total - part)) for part in parts]) if len(parts) > 1 else np.zeros(1)
        spread = float(np.sqrt((len(means) - 1) / len(means) * ((means - means.mean()) ** 2).sum()))
        hits = int(total.trace())
        iou = tuple(None if np.isnan(value) else float(value) for value in _iou(total))
        return MaskScore(name, feature, hits, self.images, settings, main, iou, hits / int(total.sum()), spread)


def _iou(pixels_KK: NDArray[np.int64]) -> NDArray[np.float64]:
    hits = pixels_KK.diagonal()
    union = pixels_KK.sum(0) + pixels_KK.sum(1) - hits
    return np.where(union > 0, hits / np.maximum(union, 1), np.nan)
