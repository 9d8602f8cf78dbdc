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
from gmml_cluster.methods.masks.cells import patches_of
from gmml_cluster.methods.protocol import Method, Setting, Shows
from gmml_cluster.models.attention_map import attention_map, map_bytes
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.augment import Normalise
from gmml_cluster.train.checkpoints.load_trained import Trained

GREY = 0.5
_OUTLINE = (0.9, 0.62, 0.0)
CANDIDATES = 64
"""Images among which those that are shown are chosen."""


@dataclass(frozen=True)
class Reconstruction:
    """One image in three states, each float32 (S, S, 3) in [0, 1].

    Attributes:
        kind: how it was corrupted, in the method's words.
        reconstructed: what the network made of it, which `made` names.
        map: under AMT its map of attention, the brighter the heavier.
    """

    kind: str
    original: Tensor
    corrupted: Tensor
    reconstructed: Tensor
    made: str = "reconstructed"
    map: Tensor | None = None


def pixels(images_n3SS: Tensor, normalise: Normalise) -> Tensor:
    """Normalised images as colours in [0, 1], channels last."""
    mean, std = (images_n3SS.new_tensor(values) for values in (normalise.mean, normalise.std))
    return (images_n3SS.movedim(1, 3) * std + mean).clamp(0, 1)


@torch.inference_mode()
def reconstruct(trained: Trained, images_n3SS: Tensor, first: int = 0) -> list[Reconstruction]:
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
    original, *others = (pixels(images, normalise) for images in (images_n3SS, seen.corrupted, seen.reconstructed))
    if seen.boxes is not None:
        for boxes, *of_image in zip(seen.boxes, *others, strict=True):
            for colours in of_image:
                _outline(colours, boxes)
    corrupted, made = others
    maps = [None] * len(original) if getattr(method, "amt", None) is None else list(_maps(method, images_n3SS))
    return [
        Reconstruction(kind, original[at], corrupted[at], made[at], seen.made, maps[at])
        for at, kind in enumerate(seen.kinds)
    ]


def _outline(colours_SS3: Tensor, boxes_M4: Tensor) -> None:
    """Draw lines around boxes into an image."""
    line = max(1, len(colours_SS3) // 112)
    for top, left, height, width in boxes_M4.tolist():
        inside_hw3 = colours_SS3[top : top + height, left : left + width].clone()
        rows, columns = slice(max(0, top - line), top + height + line), slice(max(0, left - line), left + width + line)
        colours_SS3[rows, columns] = colours_SS3.new_tensor(_OUTLINE)
        colours_SS3[top : top + height, left : left + width] = inside_hw3


def _maps(method: Method, images_n3SS: Tensor) -> Tensor:
    """Maps of attention by the method's encoder as images (n, S, S, 3) in [0, 1]."""
    encoder = method.module.get_submodule("encoder")
    assert isinstance(encoder, VisionTransformer), "methods that mask by maps have a plain encoder"
    bytes_nN, (n, _, S, _) = map_bytes(attention_map(encoder, images_n3SS)), images_n3SS.shape
    pixels_nSS = patches_of(bytes_nN, encoder.patch_size).view(n, S, S)
    return pixels_nSS[..., None].expand(-1, -1, -1, 3) / 255


def choose(shown: Sequence[Reconstruction], columns: int) -> list[Reconstruction]:
    """Equally many of each kind of corruption, the first that come, kind by kind."""
    kinds = sorted({one.kind for one in shown})
    each = columns // len(kinds)
    return [one for kind in kinds for one in [one for one in shown if one.kind == kind][:each]]


def first_images(trained: Trained, samples: Samples) -> Tensor:
    """The first images of a corpus as the method reads them (n, 3, S, S): whole groups, at most 64 if that is one."""
    data, group = trained.job.data, Setting.of(trained.job).group
    images = samples.images(range(min(len(samples), max(CANDIDATES, group)) // group * group))
    return normalised(images, data.image_size, data.normalise, torch.device("cpu"))
