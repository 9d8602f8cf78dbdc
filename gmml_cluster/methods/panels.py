"""Pictures of what a network is given, as several methods make them.

Dims: n images, S side of an image, N patches.
"""

import torch
from torch import Tensor

from gmml_cluster.methods.masks.cells import patches_of

SEEN = "what the encoder sees"


def hide(images_n3SS: Tensor, hidden_nN: Tensor, grey_3: Tensor) -> Tensor:
    """The images with all hidden patches in one colour."""
    n, _, S, _ = images_n3SS.shape
    pixels_nSS = patches_of(hidden_nN, S // round(hidden_nN.shape[1] ** 0.5)).view(n, 1, S, S)
    return torch.where(pixels_nSS, grey_3[:, None, None], images_n3SS)


def share_of(chosen_nN: Tensor) -> list[str]:
    """Of each image how many of its patches are chosen."""
    return [f"{count} of {chosen_nN.shape[1]} patches" for count in chosen_nN.sum(1).tolist()]
