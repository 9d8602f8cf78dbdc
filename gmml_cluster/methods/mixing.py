"""Mixup and CutMix: one share, one kind and one box a group; image i is mixed with image G - 1 - i of its group.

Sources: arXiv 1710.09412, 1905.04899; words of purpose 56: docs/reference/draws.md.

Dims: n images, g groups, G images of a group, C channels, S side of an image.
"""

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import bernoulli, integer, uniform_plus, words

_TRIES = 32
"""Pairs drawn for a share. At alpha 1 half of them are rejected, below it fewer: the first is taken if all are."""


def draw_mixing(seed: int, firsts: Tensor, *, mixup: float, cutmix: float, size: int) -> tuple[Tensor, Tensor]:
    """The share of the image itself, and the box that it takes from its partner.

    Args:
        seed: the run's.
        firsts: int64 (g,): first sample number of each group.
        mixup: alpha of mixup's shares; 0 where there is no mixup.
        cutmix: alpha of CutMix' shares; 0 where there is no CutMix; one of the two is on.
        size: side of an image.

    Returns:
        float64 (g,), and int64 (g, 4): top, left, bottom, right; zeros for mixup.
    """
    drawn = words(seed, Purpose.MIXUP, firsts, 4 + 2 * _TRIES)
    cuts = bernoulli(drawn[:, 1], 0.5) if mixup and cutmix else torch.full_like(firsts, bool(cutmix), dtype=torch.bool)
    # a kind that is off is never chosen; its alpha of 0 would divide by 0
    share = torch.where(cuts, beta(drawn[:, 4:], cutmix or 1.0), beta(drawn[:, 4:], mixup or 1.0))
    half = ((1 - share).sqrt() * size).long() // 2
    centre = integer(drawn[:, 2:4], size)
    low, high = (centre - half[:, None]).clamp(0, size), (centre + half[:, None]).clamp(0, size)
    box = torch.where(cuts[:, None], torch.cat([low, high], 1), 0)
    area = (high - low).prod(1).double() / size**2
    return torch.where(cuts, 1 - area, share), box


def beta(drawn_gW: Tensor, alpha: float) -> Tensor:
    """A draw of the beta distribution with both parameters `alpha`, by Joehnk's rejection; float64 (g,)."""
    x_gk, y_gk = (uniform_plus(drawn_gW).double() ** (1 / alpha)).view(len(drawn_gW), -1, 2).unbind(2)
    first_g1 = (x_gk + y_gk <= 1).int().argmax(1, keepdim=True)
    x_g, y_g = (values.gather(1, first_g1)[:, 0] for values in (x_gk, y_gk))
    return x_g / (x_g + y_g)


def partners(values: Tensor, group: int) -> Tensor:
    """Of each image of whole groups, what `values` (n, ...) holds for its partner."""
    return values.view(-1, group, *values.shape[1:]).flip(1).flatten(0, 1)


def mix_images(images_nCSS: Tensor, share_g: Tensor, box_g4: Tensor, group: int) -> Tensor:
    """Each image blended with its partner, or with the partner's pixels in the box."""
    lines = torch.arange(images_nCSS.shape[-1], device=images_nCSS.device)
    top, left, bottom, right = (side[:, None] for side in box_g4.unbind(1))
    rows_gS, columns_gS = (lines >= top) & (lines < bottom), (lines >= left) & (lines < right)
    outside_gSS = ~(rows_gS[:, :, None] & columns_gS[:, None])
    is_cut = box_g4.any(1)[:, None, None]
    own_gSS = torch.where(is_cut, outside_gSS, share_g[:, None, None]).to(images_nCSS.dtype)
    own_n1SS = own_gSS.repeat_interleave(group, 0)[:, None]
    return own_n1SS * images_nCSS + (1 - own_n1SS) * partners(images_nCSS, group)
