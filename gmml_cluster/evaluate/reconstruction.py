"""What a method saw and made of some images, as pixels to look at.

Legend: n images, S side.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.evaluate.features import normalised
from gmml_cluster.methods.protocol import Setting, Shows
from gmml_cluster.spec.augment import Normalise
from gmml_cluster.train.checkpoints.load_trained import Trained

GREY = 0.5
CANDIDATES = 64
"""Images among which those that are shown are chosen."""


@dataclass(frozen=True)
class Shown:
    """One image in three states, each float32 (S, S, 3) in [0, 1].

    Attributes:
        kind: how it was corrupted, in the method's words.
    """

    kind: str
    original: Tensor
    corrupted: Tensor
    reconstructed: Tensor


def pixels(images_n3SS: Tensor, normalise: Normalise) -> Tensor:
    """Normalised images as colours in [0, 1], channels last."""
    mean, std = (images_n3SS.new_tensor(values) for values in (normalise.mean, normalise.std))
    return (images_n3SS.movedim(1, 3) * std + mean).clamp(0, 1)


@torch.inference_mode()
def reconstruct(trained: Trained, images_n3SS: Tensor, first: int = 0) -> list[Shown]:
    """The first view of each image, corrupted as for the sample numbers from `first` on, and its reconstruction.

    Args:
        trained: the run's method with its weights.
        images_n3SS: normalised; whole groups.
        first: sample number of the first image, a multiple of the group.

    Raises:
        SpecError: the method shows nothing.
    """
    method, normalise = trained.method, trained.job.data.normalise
    if not isinstance(method, Shows):
        what = f"{trained.job.method.name!r} shows no images; a picture needs the method's `show`"
        raise SpecError(Fault("method.name", f"{what}; give it one (docs/methods.md)"))
    numbers = torch.arange(first, first + len(images_n3SS))
    views = images_n3SS[:, None].expand(-1, method.views, -1, -1, -1).contiguous()
    draws = method.draw(numbers, images_n3SS.device)
    draws.pop("drop", None)
    outputs = method.loss(method.module.eval(), views, draws).outputs
    mean, std = (images_n3SS.new_tensor(values) for values in (normalise.mean, normalise.std))
    seen = method.show(views, draws, outputs, grey=(GREY - mean) / std)
    states = [pixels(images, normalise) for images in (images_n3SS, seen.corrupted, seen.reconstructed)]
    return [Shown(kind, *(state[index] for state in states)) for index, kind in enumerate(seen.kinds)]


def choose(shown: Sequence[Shown], columns: int) -> list[Shown]:
    """Equally many of each kind of corruption, the first that come, kind by kind."""
    kinds = sorted({one.kind for one in shown})
    each = columns // len(kinds)
    return [one for kind in kinds for one in [one for one in shown if one.kind == kind][:each]]


def first_images(trained: Trained, samples: Samples) -> Tensor:
    """The first images of a corpus as the method reads them (n, 3, S, S): whole groups, at most 64."""
    data, group = trained.job.data, Setting.of(trained.job).group
    images = samples.images(range(min(len(samples), CANDIDATES) // group * group))
    return normalised(images, data.image_size, data.normalise, torch.device("cpu"))
