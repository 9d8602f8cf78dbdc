"""What a method saw and made of some images, as pixels to look at.

Legend: n images, S side, N patches, p side of a patch.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from gmml_cluster.methods.mae import patchify
from gmml_cluster.spec.job import Normalise
from gmml_cluster.train.public import Trained

GREY = 0.5


@dataclass(frozen=True)
class Shown:
    """One image in three states, each float32 (S, S, 3) in [0, 1].

    Attributes:
        kind: how it was corrupted: `noise`, `alien`, or `removed` patches.
    """

    kind: str
    original: Tensor
    corrupted: Tensor
    reconstructed: Tensor


def pixels(images_n3SS: Tensor, normalise: Normalise) -> Tensor:
    """Normalised images as colours in [0, 1], channels last."""
    mean, std = (images_n3SS.new_tensor(values) for values in (normalise.mean, normalise.std))
    return (images_n3SS.movedim(1, 3) * std + mean).clamp(0, 1)


def unpatchify(patches_nNP: Tensor, patch_size: int) -> Tensor:
    """The inverse of MAE's patches: images (n, 3, S, S)."""
    n, cells, _ = patches_nNP.shape
    grid = round(cells**0.5)
    split = patches_nNP.view(n, grid, grid, patch_size, patch_size, 3)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(n, 3, grid * patch_size, grid * patch_size)


def unstandardise(prediction_nNP: Tensor, target_nNP: Tensor) -> Tensor:
    """Patches predicted as standardised, with the target's own mean and deviation put back: for the eye alone."""
    variance, mean = torch.var_mean(target_nNP, 2, keepdim=True)
    return prediction_nNP * (variance + 1e-6).sqrt() + mean


@torch.inference_mode()
def reconstruct(trained: Trained, images_n3SS: Tensor, first: int = 0) -> list[Shown]:
    """The first view of each image, corrupted as for the sample numbers from `first` on, and its reconstruction.

    Args:
        trained: the run's method with its weights.
        images_n3SS: normalised; whole groups.
        first: sample number of the first image, a multiple of the group.
    """
    method, normalise = trained.method, trained.job.data.normalise
    numbers = torch.arange(first, first + len(images_n3SS))
    views = images_n3SS[:, None].expand(-1, method.views, -1, -1, -1).contiguous()
    draws = method.draw(numbers, images_n3SS.device)
    draws.pop("drop", None)
    outputs = method.loss(method.module.eval(), views, draws).outputs
    if "corrupted" in outputs:
        kinds = ["alien" if (source >= 0).any() else "noise" for source in draws["source"][:, 0]]
        corrupted, made = outputs["corrupted"][:, 0], outputs["prediction"][:, 0]
    else:
        kinds = ["removed"] * len(images_n3SS)
        corrupted, made = _patches(trained, images_n3SS, outputs)
    states = [pixels(images, normalise) for images in (images_n3SS, corrupted, made)]
    return [Shown(kind, *(state[place] for state in states)) for place, kind in enumerate(kinds)]


def _patches(trained: Trained, images_n3SS: Tensor, outputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Images with removed patches grey, and with removed patches as predicted."""
    options: Any = trained.job.method
    size = trained.job.model.patch_size
    target, removed, made = patchify(images_n3SS, size), outputs["mask"][:, :, None], outputs["prediction"]
    made = unstandardise(made, target) if options.standardise else made
    normalise = trained.job.data.normalise
    grey = (GREY - target.new_tensor(normalise.mean)) / target.new_tensor(normalise.std)
    hidden = torch.where(removed, grey.repeat(size * size), target)
    return unpatchify(hidden, size), unpatchify(torch.where(removed, made, target), size)
