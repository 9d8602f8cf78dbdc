"""Random erasing on the images' device: a rectangle of noise, each view by its own random bits.

Source: arXiv 1708.04896, with noise for each pixel; words of purpose 19: docs/reference/draws.md.

Dims: B views, C channels, S side, T tries.
"""

import math

import torch
from torch import Tensor

from gmml_cluster.data.random.philox_torch import bernoulli, integer, uniform
from gmml_cluster.spec.augment import Erase

_TRIES = 10
WORDS = 4 * (1 + _TRIES)
"""Random words of a view: a block that says whether, and one for each try: area, aspect, top, left."""
NOISE_STREAM = 8
"""Stream of the first view's noise: those below are the methods' own noise."""
_AREA = (0.02, 1 / 3)
_ASPECT = (0.3, 1 / 0.3)


def boxes(drawn_BW: Tensor, spec: Erase, size: int) -> Tensor:
    """Top, left, bottom and right of what each view loses, zeros where it loses nothing: int64 (B, 4).

    Of ten tries the first counts whose height and width are below the side.
    """
    uniforms_BT4 = uniform(drawn_BW[:, 4:]).double().view(-1, _TRIES, 4)
    area_BT = size**2 * (_AREA[0] + (_AREA[1] - _AREA[0]) * uniforms_BT4[..., 0])
    low, high = (math.log(bound) for bound in _ASPECT)
    aspect_BT = (low + (high - low) * uniforms_BT4[..., 1]).exp()
    sides_BT2 = torch.stack([(area_BT * aspect_BT).sqrt(), (area_BT / aspect_BT).sqrt()], 2).round().long()
    fits_BT = (sides_BT2 < size).all(2)
    # a try that does not fit has no place; its number of places is kept positive
    corner_BT2 = integer(drawn_BW[:, 4:].view(-1, _TRIES, 4)[..., 2:], (size + 1 - sides_BT2).clamp(min=1))
    first_B12 = fits_BT.int().argmax(1)[:, None, None].expand(-1, 1, 2)
    corner_B2, sides_B2 = (each.gather(1, first_B12)[:, 0] for each in (corner_BT2, sides_BT2))
    is_erased_B = bernoulli(drawn_BW[:, 0], spec.probability) & fits_BT.any(1)
    return torch.where(is_erased_B[:, None], torch.cat([corner_B2, corner_B2 + sides_B2], 1), 0)


def erased(x_BCSS: Tensor, box_B4: Tensor, noise_BCSS: Tensor) -> Tensor:
    """The views with noise in their boxes."""
    lines_S = torch.arange(x_BCSS.shape[-1], device=x_BCSS.device)
    top, left, bottom, right = (side[:, None] for side in box_B4.unbind(1))
    rows_BS, columns_BS = (lines_S >= top) & (lines_S < bottom), (lines_S >= left) & (lines_S < right)
    return torch.where((rows_BS[:, :, None] & columns_BS[:, None])[:, None], noise_BCSS, x_BCSS)
