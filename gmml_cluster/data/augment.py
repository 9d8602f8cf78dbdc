"""Flip, colour jitter, blur and normalisation of a batch on its device, each view by its own draws.

METHODS 1.2 gives the operations, 9.1 the words: purpose 17, word 0: flip; purpose 18, words 0: jitter on, 1: order of
its four operations, 2..5: brightness, contrast, saturation, hue, 7: blur on, 8: its radius. Every image passes through
every operation, with neutral factors where it is off, so that nothing waits for the device.

Dims: n images, V views, B = n V, C channels, S side of an image.
"""

import math
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import bernoulli, integer, uniform, words
from gmml_cluster.spec.job import Augment, Blur, Jitter, Normalise

_BRIGHTNESS, _CONTRAST, _SATURATION, _HUE, _NONE = range(5)


def prepare(images: Tensor, numbers: Tensor, *, seed: int, augment: Augment, normalise: Normalise) -> Tensor:
    """What the methods see of cropped images; to be called outside autocast.

    Args:
        images: uint8 RGB (n, V, 3, S, S), cropped and resized.
        numbers: int64 (n,) sample numbers, on the same device.
        seed: the run's.
        augment: what is drawn; the crop is made elsewhere.
        normalise: mean and standard deviation of the channels.

    Returns:
        float32 (n, V, 3, S, S).
    """
    views = images.shape[1]
    x_BCSS = images.flatten(0, 1).float() / 255
    if augment.flip:
        drawn_B9 = _words(seed, Purpose.FLIP, numbers, views)
        x_BCSS = torch.where(_bcast(bernoulli(drawn_B9[:, 0], 0.5)), x_BCSS.flip(3), x_BCSS)
    if augment.jitter or augment.blur:
        drawn_B9 = _words(seed, Purpose.COLOUR, numbers, views)
        x_BCSS = x_BCSS if augment.jitter is None else jitter(x_BCSS, drawn_B9, augment.jitter)
        x_BCSS = x_BCSS if augment.blur is None else blur(x_BCSS, drawn_B9, augment.blur)
    channels = [(x_BCSS[:, c] - normalise.mean[c]) / normalise.std[c] for c in range(3)]
    return torch.stack(channels, 1).view(images.shape)


def _words(seed: int, purpose: Purpose, numbers: Tensor, views: int) -> Tensor:
    return torch.stack([words(seed, purpose, numbers, 9, view) for view in range(views)], 1).flatten(0, 1)


def _bcast(values_B: Tensor) -> Tensor:
    return values_B[:, None, None, None]


def jitter(x_BCSS: Tensor, drawn_B9: Tensor, law: Jitter) -> Tensor:
    """Brightness, contrast, saturation and hue in a drawn order, with the semantics of torchvision.

    Each of the first three blends with black, the mean grey or the grey image; hue can stand at any of four places, so
    there are three blends before it and three after, of which those that do not apply are neutral.

    Args:
        x_BCSS: RGB in [0, 1].
        drawn_B9: words of purpose 18.
        law: strengths and probability.
    """
    strengths = (law.brightness, law.contrast, law.saturation)
    factors_B = [1 - s + 2 * s * uniform(drawn_B9[:, 2 + k]) for k, s in enumerate(strengths)]
    slots_B6, out = _table(x_BCSS.device)[integer(drawn_B9[:, 1], 24)], x_BCSS
    for slot in range(3):
        out = _blend(out, slots_B6[:, slot], factors_B)
    out = _turn(out, law.hue * (2 * uniform(drawn_B9[:, 5]) - 1))
    for slot in range(3, 6):
        out = _blend(out, slots_B6[:, slot], factors_B)
    return torch.where(_bcast(bernoulli(drawn_B9[:, 0], law.probability)), out, x_BCSS)


def _slots(order: tuple[int, ...]) -> tuple[int, ...]:
    """The operations before hue and after it, three places each."""
    at = order.index(_HUE)
    before, after = order[:at], order[at + 1 :]
    return (*before, *(_NONE,) * (3 - len(before)), *after, *(_NONE,) * (3 - len(after)))


@cache
def _table(device: torch.device) -> Tensor:
    """Slots of the 24 orders, lexicographic (24, 6); copied to a device once."""
    return torch.tensor([_slots(order) for order in permutations(range(4))], device=device)


def _blend(x_BCSS: Tensor, operation_B: Tensor, factors_B: list[Tensor]) -> Tensor:
    """Blend each image with what its operation asks for; `_NONE` leaves it as it is."""
    factor_B = torch.ones_like(factors_B[0])
    for operation, factor in enumerate(factors_B):
        factor_B = torch.where(operation_B == operation, factor, factor_B)
    grey_B1SS = _grey(x_BCSS)
    base_B1SS = torch.where(_bcast(operation_B == _CONTRAST), grey_B1SS.mean((1, 2, 3), keepdim=True), grey_B1SS)
    base_B1SS = torch.where(_bcast(operation_B == _BRIGHTNESS), 0.0, base_B1SS)
    return (_bcast(factor_B) * x_BCSS + _bcast(1 - factor_B) * base_B1SS).clamp(0, 1)


def _grey(x_BCSS: Tensor) -> Tensor:
    return 0.2989 * x_BCSS[:, 0:1] + 0.587 * x_BCSS[:, 1:2] + 0.114 * x_BCSS[:, 2:3]


def _turn(x_BCSS: Tensor, turns_B: Tensor) -> Tensor:
    """Turn the hue by a share of the colour circle, keeping HSV's value and chroma."""
    red, green, blue = x_BCSS.unbind(1)
    value, chroma = x_BCSS.amax(1), x_BCSS.amax(1) - x_BCSS.amin(1)
    span = torch.where(chroma == 0, 1.0, chroma)
    sextant = torch.where(value == green, 2 + (blue - red) / span, 4 + (red - green) / span)
    sextant = torch.where(value == red, (green - blue) / span, sextant) + 6 * turns_B[:, None, None]
    distances = [torch.remainder(place + sextant, 6) for place in (5, 3, 1)]
    return torch.stack([value - chroma * torch.minimum(d, 4 - d).clamp(0, 1) for d in distances], 1)


def blur(x_BCSS: Tensor, drawn_B9: Tensor, law: Blur) -> Tensor:
    """Gaussian blur by each image's own standard deviation, cut at four of the widest; borders are continued.

    Rows and columns are blurred by one matrix an image.

    Args:
        x_BCSS: RGB in [0, 1].
        drawn_B9: words of purpose 18.
        law: radii and probability.
    """
    least, most = law.radius
    radius_B = least + (most - least) * uniform(drawn_B9[:, 8])
    reach, side = math.ceil(4 * most), x_BCSS.shape[2]
    taps = torch.arange(-reach, reach + 1, device=x_BCSS.device)
    weights_BK = (-0.5 * (taps / radius_B[:, None]).square()).exp()
    lines = torch.arange(side, device=x_BCSS.device)
    reads_KSS = (lines[:, None] + taps[:, None, None]).clamp(0, side - 1) == lines
    matrix_BSS = (weights_BK / weights_BK.sum(1, keepdim=True)) @ reads_KSS.flatten(1).float()
    matrix_B1SS = matrix_BSS.view(-1, 1, side, side)
    blurred = matrix_B1SS @ x_BCSS @ matrix_B1SS.mT
    return torch.where(_bcast(bernoulli(drawn_B9[:, 7], law.probability)), blurred, x_BCSS)
