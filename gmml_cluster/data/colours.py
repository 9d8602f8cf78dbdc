"""Colour jitter, grey, blur and solarisation of images or patches on their device, each by its own random bits.

Every image passes through every operation, with neutral factors where it is off, so that nothing waits for the device.
What does not depend on pixels is computed once for all operations: on a GPU a launch costs as much as such a small
kernel.

Dims: B images or patches, C channels, S side.
"""

import math
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from gmml_cluster.data.random.philox_torch import bernoulli, constant, integer, uniform
from gmml_cluster.spec.augment import Blur, Jitter

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _NONE = range(5)
_SOLARISE = 128 / 255


def per_image(values_B: Tensor) -> Tensor:
    """One value for all channels and pixels of an image (B, 1, 1, 1)."""
    return values_B[:, None, None, None]


def jitter(x_BCSS: Tensor, drawn_BW: Tensor, spec: Jitter) -> Tensor:
    """Brightness, contrast, saturation and hue in a drawn order, with the semantics of torchvision.

    Each of the first three blends with black, the mean grey or the grey image; hue may come first to last, so there are
    three blends before it and three after, of which those that do not apply are neutral.

    Args:
        x_BCSS: RGB in [0, 1].
        drawn_BW: words 0: jitter on, 1: order of the four, 2..5: brightness, contrast, saturation, hue.
        spec: strengths and probability.
    """
    strengths = (spec.brightness, spec.contrast, spec.saturation)
    uniforms_BW = uniform(drawn_BW)
    factors_B = [1 - s + 2 * s * uniforms_BW[:, 2 + k] for k, s in enumerate(strengths)]
    neutral_B = torch.ones_like(factors_B[0])
    slots_B6, out = _table(x_BCSS.device)[integer(drawn_BW[:, 1], 24)], x_BCSS
    factor_B6 = torch.stack([*factors_B, neutral_B, neutral_B], 1).gather(1, slots_B6)
    # black adds nothing, so brightness may blend with whatever is at hand, for a share of 0
    rest_B6 = (1 - factor_B6).masked_fill_(slots_B6 == _BRIGHTNESS, 0.0)
    blends = Blends(factor_B6, rest_B6, slots_B6 == _CONTRAST)
    for slot in range(3):
        out = _blend(out, blends, slot)
    out = _turn(out, spec.hue * (2 * uniforms_BW[:, 5] - 1))
    for slot in range(3, 6):
        out = _blend(out, blends, slot)
    return torch.where(per_image(bernoulli(drawn_BW[:, 0], spec.probability)), out, x_BCSS)


@dataclass(frozen=True)
class Blends:
    """The six blends of each image (B, 6): the image's share, the grey one's, and whether that is its mean."""

    factor: Tensor
    rest: Tensor
    contrast: Tensor


def _slots(order: tuple[int, ...]) -> tuple[int, ...]:
    """The operations before hue and after it, three slots each."""
    at = order.index(_HUE)
    before, after = order[:at], order[at + 1 :]
    return (*before, *(_NONE,) * (3 - len(before)), *after, *(_NONE,) * (3 - len(after)))


@cache
def _table(device: torch.device) -> Tensor:
    """Slots of the 24 orders, lexicographic (24, 6); copied to a device once."""
    return constant([_slots(order) for order in permutations(range(4))], device)


def _blend(x_BCSS: Tensor, blends: Blends, slot: int) -> Tensor:
    """Blend each image with its grey one or that one's mean; a factor of 1 leaves it as it is."""
    grey_B1SS = grey(x_BCSS)
    mean_B111 = grey_B1SS.mean((1, 2, 3), keepdim=True)
    base_B1SS = torch.where(per_image(blends.contrast[:, slot]), mean_B111, grey_B1SS)
    own_BCSS = per_image(blends.factor[:, slot]) * x_BCSS
    return own_BCSS.add_(per_image(blends.rest[:, slot]) * base_B1SS).clamp_(0, 1)


def grey(x_BCSS: Tensor) -> Tensor:
    """Luma by torchvision's weights (B, 1, S, S)."""
    weighted_BCSS = x_BCSS * _luma(x_BCSS.device)
    return (weighted_BCSS[:, 0:1] + weighted_BCSS[:, 1:2]).add_(weighted_BCSS[:, 2:3])


@cache
def _luma(device: torch.device) -> Tensor:
    return constant(torch.tensor([0.2989, 0.587, 0.114])[:, None, None], device)


def _turn(x_BCSS: Tensor, turns_B: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle, keeping HSV's value and chroma."""
    red, green, blue = x_BCSS.unbind(1)
    value = x_BCSS.amax(1)
    chroma = value - x_BCSS.amin(1)
    span = chroma + (chroma == 0)  # 1 in place of 0
    sextant = torch.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span)
    sextant = torch.where(value == red, (green - blue) / span, sextant) + 6 * turns_B[:, None, None]
    distance_BCSS = torch.remainder(_offsets(x_BCSS.device) + sextant[:, None], 6)
    share_BCSS = torch.minimum(distance_BCSS, 4 - distance_BCSS).clamp(0, 1)
    return value[:, None] - chroma[:, None] * share_BCSS


@cache
def _offsets(device: torch.device) -> Tensor:
    """Of red, green and blue, the sextant that the hue's distance is counted from (C, 1, 1)."""
    return constant(torch.tensor([5.0, 3.0, 1.0])[:, None, None], device)


def blur(x_BCSS: Tensor, drawn_BW: Tensor, spec: Blur) -> Tensor:
    """Gaussian blur by each image's own standard deviation, cut at four of the widest; borders are continued.

    Rows and columns are blurred by one matrix an image.

    Args:
        x_BCSS: RGB in [0, 1].
        drawn_BW: words 7: blur on, 8: its radius.
        spec: radii and probability.
    """
    least, most = spec.radius
    radius_B = least + (most - least) * uniform(drawn_BW[:, 8])
    reach, side = math.ceil(4 * most), x_BCSS.shape[2]
    taps_K, reads_KM = _reads(reach, side, x_BCSS.device)
    weights_BK = (-0.5 * (taps_K / radius_B[:, None]).square()).exp()
    matrix_BSS = (weights_BK / weights_BK.sum(1, keepdim=True)) @ reads_KM
    matrix_B1SS = matrix_BSS.view(-1, 1, side, side)
    blurred = matrix_B1SS @ x_BCSS @ matrix_B1SS.mT
    return torch.where(per_image(bernoulli(drawn_BW[:, 7], spec.probability)), blurred, x_BCSS)


@cache
def _reads(reach: int, side: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The taps of a blur (K,), and of each which line every line reads, its border continued (K, S * S)."""
    taps, lines = torch.arange(-reach, reach + 1), torch.arange(side)
    reads_KSS = (lines[:, None] + taps[:, None, None]).clamp(0, side - 1) == lines
    return constant(taps, device), constant(reads_KSS.flatten(1).float(), device)


def greyed(x_BCSS: Tensor, drawn_BW: Tensor, probability: float) -> Tensor:
    """Three channels of luma where word 6 says so."""
    return torch.where(per_image(bernoulli(drawn_BW[:, 6], probability)), grey(x_BCSS), x_BCSS)


def solarised(x_BCSS: Tensor, drawn_BW: Tensor, probability: float) -> Tensor:
    """Values from 128 of 255 on inverted where word 9 says so."""
    inverted = torch.where(x_BCSS >= _SOLARISE, 1 - x_BCSS, x_BCSS)
    return torch.where(per_image(bernoulli(drawn_BW[:, 9], probability)), inverted, x_BCSS)
