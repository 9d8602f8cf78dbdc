"""Features of labelled images: one vector an image from a frozen encoder, without augmentation.

Legend: M images, B of a batch, S side the encoder reads, T tokens, D width.
"""

from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.reader.node_share import decode_threads
from gmml_cluster.errors import CheckpointError, DataError, Fault
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.progress import progress
from gmml_cluster.spec.augment import Normalise
from gmml_cluster.store.protocol import Store

Feature = Literal["class", "mean", "taps", "global", "pixels"]
FEATURES: tuple[Feature, ...] = ("class", "mean", "taps", "global", "pixels")
Summary = Callable[[Tensor, AnyEncoder], Tensor]
BATCH = 128
MARGIN = 256 / 224
_TOGETHER = 32
"""Samples that a thread reads and decodes at once; neighbours in a shard share a request."""
_BATCHES_AHEAD = 2

Squares = Sequence[NDArray[np.uint8]]
"""Images (S, S, 3) of the encoder's size."""


@dataclass(frozen=True)
class EvalCorpus:
    """Labelled images that are decoded when a batch of them is asked for, so that memory never holds them all.

    Attributes:
        url: where they lie.
        indices: int64 (M,), which samples of the corpus they are.
        labels: int64 (M,), classes from 0.
        images: decodes some samples of the corpus, uint8 RGB arrays (height, width, 3).
        shards: URLs of all shards of the corpus.
        contents: length and CRC32C of each of its encoded images, as far as checksums were made.
        identity: SHA-256 of the shards' names, counts, and their samples' names and lengths.
    """

    url: str
    indices: Tensor
    labels: Tensor
    images: Callable[[Sequence[int]], Sequence[NDArray[np.uint8]]]
    shards: frozenset[str] = frozenset()
    contents: frozenset[tuple[int, int]] = frozenset()
    identity: str = ""

    def part(self, name: str, chosen_M: Tensor) -> "EvalCorpus":
        """The images for which `chosen_M` is true."""
        return replace(
            self,
            url=f"{self.url} ({name})",
            indices=self.indices[chosen_M],
            labels=self.labels[chosen_M],
            identity=f"{self.identity} ({name})",
        )


@dataclass(frozen=True)
class Labelled:
    """Features with their classes: float32 (M, D) and int64 (M,) from 0."""

    features: Tensor
    labels: Tensor

    @property
    def classes(self) -> int:
        """One above the highest class."""
        return int(self.labels.max()) + 1


def read(url: str, indexes: Store | None = None, image: str | None = None) -> EvalCorpus:
    """The corpus at `url`; samples without a class (label -1) are left out.

    Args:
        url: shards as a job names them.
        indexes: where indexes may lie that are not beside their shards.
        image: field of the images, as `image` of a corpus in a job file.

    Raises:
        DataError: no sample has a label.
    """
    samples = Samples(url, indexes, image)
    labels = torch.from_numpy(samples.labels())
    known = (labels >= 0).nonzero().flatten()
    if not len(known):
        problem = "no sample has a label; kNN and linear need classes"
        raise DataError(Fault(url, problem, "add a .cls member to each sample"))
    return EvalCorpus(url, known, labels[known], samples.images, samples.shards(), samples.contents(), samples.identity)


def hold_out(bank: EvalCorpus) -> tuple[EvalCorpus, EvalCorpus]:
    """The bank without every tenth image of each class, and those: no image votes for itself.

    Raises:
        DataError: no class has ten images.
    """
    held = torch.zeros(len(bank.labels), dtype=torch.bool)
    for label in set(bank.labels.tolist()):
        held[(bank.labels == label).nonzero().flatten()[9::10]] = True
    if not held.any():
        problem = "no class has ten images, so none can be held out"
        raise DataError(Fault(bank.url, problem, "name a corpus by --corpus"))
    return bank.part("nine tenths", ~held), bank.part("a held-out tenth", held)


def fit(image: NDArray[np.uint8], size: int) -> NDArray[np.uint8]:
    """The central square of the encoder's size.

    An image of that very size is taken as it is. Any other is resized, bicubic, so that its shorter side is
    256/224 of the size, and cropped.
    """
    if image.shape[:2] == (size, size):
        return image
    height, width = image.shape[:2]
    scale = round(size * MARGIN) / min(height, width)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    resized = Image.fromarray(image).resize((wide, high), Image.Resampling.BICUBIC)
    return np.asarray(resized.crop((left, top, left + size, top + size)))


def read_ahead(
    corpus: EvalCorpus, batches: Sequence[Tensor], size: int, threads: int
) -> Generator[Squares, None, None]:
    """The central squares of each batch of samples, of which threads read and decode the next while one is used.

    Raises:
        DataError: an image cannot be decoded.
        StorageError: the store does not answer.
    """

    def read(indices: Tensor) -> Squares:
        return [fit(image, size) for image in corpus.images(indices.tolist())]

    waiting: deque[list[Future[Squares]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="evaluation")
    try:
        for at in range(len(batches)):
            for batch in batches[at + len(waiting) : at + _BATCHES_AHEAD]:
                waiting.append([pool.submit(read, part) for part in torch.split(batch, _TOGETHER)])
            yield [square for part in waiting.popleft() for square in part.result()]
    finally:
        pool.shutdown(cancel_futures=True)


def normalised(images: Sequence[NDArray[np.uint8]], size: int, normalise: Normalise, device: torch.device) -> Tensor:
    """Images as the encoder reads them, float32 (B, 3, S, S)."""
    pixels = torch.from_numpy(np.stack([fit(image, size) for image in images])).to(device)
    mean, std = (torch.tensor(values, device=device) for values in (normalise.mean, normalise.std))
    return ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2).contiguous()


def pool(
    encoder: AnyEncoder,
    images_BCSS: Tensor,
    taps: Sequence[int],
    names: Sequence[Feature],
    summary: Summary | None = None,
) -> list[Tensor]:
    """One vector (B, D) an image for each named feature, from as few passes as they need.

    `class`: the class token of the last block. `mean`: the mean of its patch tokens. `taps`: the mean of the patch
    tokens of the mean of the tapped blocks. These are read after the final norm; none keeps the tokens alive.
    `global`: the method's own, by `summary`. `pixels`: the normalised image itself, a baseline that needs no encoder.
    """
    passes = {name == "taps" for name in names if name not in ("global", "pixels")}
    tokens = {tapped: encoder(images_BCSS, taps=taps if tapped else None) for tapped in passes}
    vectors: dict[Feature, Callable[[], Tensor]] = {
        "class": lambda: tokens[False][:, 0].clone(),
        "mean": lambda: tokens[False][:, encoder.prefix_tokens :].mean(1),
        "taps": lambda: tokens[True][:, encoder.prefix_tokens :].mean(1),
        "pixels": lambda: images_BCSS.flatten(1),
    }
    if summary is not None:
        vectors["global"] = lambda: summary(images_BCSS, encoder)
    return [vectors[name]() for name in names]


@dataclass(frozen=True)
class FeatureReader:
    """A frozen encoder and how its images are prepared.

    Attributes:
        encoder: in evaluation mode.
        image_size: S, the size that it reads.
        normalise: of its training.
        taps: blocks, counted from 1, of the feature `taps`.
        summary: makes the feature `global` (B, D) of images, where the method has one.
    """

    encoder: AnyEncoder
    image_size: int
    normalise: Normalise
    taps: tuple[int, ...]
    device: torch.device
    summary: Summary | None = None

    @torch.inference_mode()
    def batch(self, squares: Squares, names: Sequence[Feature]) -> list[Tensor]:
        """Each named feature (B, D) of some images, float32."""
        images = normalised(squares, self.image_size, self.normalise, self.device)
        return [vectors.float() for vectors in pool(self.encoder, images, self.taps, names, self.summary)]

    def features(self, corpus: EvalCorpus, names: Sequence[Feature]) -> dict[Feature, Labelled]:
        """Each named feature of the whole corpus, in its order.

        Raises:
            CheckpointError: a feature holds numbers that are not finite.
        """
        found: list[list[Tensor]] = []
        batches = torch.split(corpus.indices, BATCH)
        with progress(f"reading {corpus.url}", len(corpus.indices)) as advance:
            for squares in read_ahead(corpus, batches, self.image_size, decode_threads(1)):
                found.append(self.batch(squares, names))
                advance(len(squares))
        vectors = [torch.cat(parts) for parts in zip(*found, strict=True)]
        return labelled(corpus, dict(zip(names, vectors, strict=True)))


def labelled(corpus: EvalCorpus, features: Mapping[Feature, Tensor]) -> dict[Feature, Labelled]:
    """Features (M, D) of a whole corpus with its classes.

    Raises:
        CheckpointError: a feature holds numbers that are not finite.
    """
    for name, vectors in features.items():
        _demand_finite(name, vectors, corpus.url)
    return {name: Labelled(vectors, corpus.labels.to(vectors.device)) for name, vectors in features.items()}


def _demand_finite(name: Feature, features_MD: Tensor, url: str) -> None:
    bad = int((~features_MD.isfinite()).any(1).sum())
    if bad:
        counted = f"not finite for {bad} of {len(features_MD)} images of {url}"
        problem = f"{counted}; the weights of this checkpoint have diverged"
        raise CheckpointError(Fault(f"feature {name!r}", problem, "score an earlier one by --step"))
