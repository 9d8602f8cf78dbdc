"""Flip, RandAugment, colours, normalisation, patches and erasing of a batch on its device, by each view's own draws.

Operations and words are in docs/reference/draws.md: purpose 17, word 0: flip; purpose 18, words 0: jitter on, 1: order
of its four operations, 2..5: brightness, contrast, saturation, hue, 6: grey, 7: blur on, 8: its radius, 9: solarise;
purpose 19: `erase.py`; purpose 20: `rand_augment.py`; patches: `patches.py`.

Dims: n images, V views, B = n V, C channels, S side of an image, p side of a patch, N patches, M = B N.
"""

from functools import cache

import torch
from torch import Tensor

from gmml_cluster.data.colours import blur, greyed, jitter, per_image, solarised
from gmml_cluster.data.erase import NOISE_STREAM, boxes, erased
from gmml_cluster.data.erase import WORDS as ERASE_WORDS
from gmml_cluster.data.patches import PATCH_WORDS, colour_patches, crop_patches, from_patches, mega_patches, to_patches
from gmml_cluster.data.rand_augment import WORDS as OPERATION_WORDS
from gmml_cluster.data.rand_augment import rand_augment
from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import bernoulli, constant, pixel_noise, view_words
from gmml_cluster.spec.augment import Augment, Erase, Normalise, PatchAugment


def prepare(
    images: Tensor, numbers: Tensor, *, seed: int, augment: Augment, normalise: Normalise, patch_size: int = 1
) -> Tensor:
    """What the methods see of cropped images; to be called outside autocast.

    Args:
        images: uint8 RGB (n, V, 3, S, S), cropped and resized.
        numbers: int64 (n,) sample numbers, on the same device.
        seed: the run's.
        augment: what is drawn; the crop is made elsewhere.
        normalise: mean and standard deviation of the channels.
        patch_size: the encoder's; read where patches are augmented.

    Returns:
        float32 (n, V, 3, S, S); with mega-patches the side is `blocks` patches.
    """
    counts = _counts(augment)
    random_bits = view_words(seed, numbers, images.shape[1], counts) if counts else {}
    x_BCSS = images.flatten(0, 1).float()
    if augment.flip:
        flip_nV = random_bits[Purpose.FLIP][:, :, 0]
        flip_nV = flip_nV[:, :1].expand_as(flip_nV) if augment.aligned else flip_nV
        x_BCSS = torch.where(per_image(bernoulli(flip_nV.flatten(), 0.5)), x_BCSS.flip(3), x_BCSS)
    moments_2C11 = _moments(normalise, images.device)
    if augment.rand_augment is not None:
        fill_C11 = (255 * moments_2C11[0]).round()
        x_BCSS = rand_augment(x_BCSS, random_bits[Purpose.AUGMENT].flatten(0, 1), augment.rand_augment, fill_C11)
    x_nVCSS = x_BCSS.view(images.shape) / 255
    if Purpose.COLOUR in counts:
        x_nVCSS = _colours(x_nVCSS, random_bits[Purpose.COLOUR], augment)
    if augment.mega is not None:
        x_nVCSS = mega_patches(x_nVCSS, numbers, seed=seed, spec=augment.mega, p=patch_size)
    if augment.patches is not None:
        x_nVCSS = _patches(x_nVCSS, numbers, seed, augment.patches, moments_2C11, patch_size)
    else:
        x_nVCSS = (x_nVCSS - moments_2C11[0]) / moments_2C11[1]
    if augment.erase is None:
        return x_nVCSS
    return _erased(x_nVCSS, numbers, seed, random_bits[Purpose.ERASE], augment.erase)


def _counts(augment: Augment) -> dict[int, int]:
    """Random words of a view, by purpose."""
    counts: dict[int, int] = {Purpose.FLIP: 1} if augment.flip else {}
    if augment.jitter or augment.grey or augment.blur or augment.solarise:
        counts[Purpose.COLOUR] = 10
    if augment.rand_augment is not None:
        counts[Purpose.AUGMENT] = OPERATION_WORDS * augment.rand_augment.operations
    return counts | ({Purpose.ERASE: ERASE_WORDS} if augment.erase is not None else {})


def _erased(x_nVCSS: Tensor, numbers: Tensor, seed: int, drawn_nVW: Tensor, spec: Erase) -> Tensor:
    """Views with a rectangle of noise in some of them."""
    views, size = x_nVCSS.shape[1], x_nVCSS.shape[-1]
    noise = pixel_noise(seed, numbers, views=views, size=size, dtype=x_nVCSS.dtype, first_stream=NOISE_STREAM)
    box_B4 = boxes(drawn_nVW.flatten(0, 1), spec, size)
    return erased(x_nVCSS.flatten(0, 1), box_B4, noise.flatten(0, 1)).view(x_nVCSS.shape)


def flip_masks(masks_nSS: Tensor, numbers: Tensor, *, seed: int, augment: Augment) -> Tensor:
    """Masks of the first views, mirrored where `prepare` mirrors those.

    Args:
        masks_nSS: (n, S, S), cropped like the images.
        numbers: int64 (n,) sample numbers, on the same device.
        seed: the run's.
        augment: what is drawn.
    """
    if not augment.flip:
        return masks_nSS
    drawn_n = view_words(seed, numbers, 1, {Purpose.FLIP: 1})[Purpose.FLIP][:, 0, 0]
    return torch.where(bernoulli(drawn_n, 0.5)[:, None, None], masks_nSS.flip(2), masks_nSS)


def _colours(x_nVCSS: Tensor, drawn_nVW: Tensor, augment: Augment) -> Tensor:
    """Colours and blur of all views, or of all but the first."""
    weak = int(augment.weak_first)
    x_BCSS, drawn_BW = x_nVCSS[:, weak:].flatten(0, 1), drawn_nVW[:, weak:].flatten(0, 1)
    if augment.jitter is not None:
        x_BCSS = jitter(x_BCSS, drawn_BW, augment.jitter)
    if augment.grey:
        x_BCSS = greyed(x_BCSS, drawn_BW, augment.grey)
    if augment.blur is not None:
        x_BCSS = blur(x_BCSS, drawn_BW, augment.blur)
    if augment.solarise:
        x_BCSS = solarised(x_BCSS, drawn_BW, augment.solarise)
    strong_nVCSS = x_BCSS.view(len(x_nVCSS), -1, *x_nVCSS.shape[2:])
    return torch.cat([x_nVCSS[:, :weak], strong_nVCSS], 1) if weak else strong_nVCSS


def _patches(
    x_nVCSS: Tensor, numbers: Tensor, seed: int, spec: PatchAugment, moments_2C11: Tensor, patch_size: int
) -> Tensor:
    """Patches augmented, and normalised before or after their colours are changed."""
    views, side = x_nVCSS.shape[1], x_nVCSS.shape[-1]
    x_MCpp = to_patches(x_nVCSS.flatten(0, 1), patch_size)
    count = PATCH_WORDS * (side // patch_size) ** 2
    drawn_MW = view_words(seed, numbers, views, {Purpose.PATCH: count})[Purpose.PATCH].reshape(-1, PATCH_WORDS)
    x_MCpp = crop_patches(x_MCpp, drawn_MW, spec)
    if spec.after_normalise:
        x_MCpp = colour_patches((x_MCpp - moments_2C11[0]) / moments_2C11[1], drawn_MW, spec)
    else:
        x_MCpp = (colour_patches(x_MCpp, drawn_MW, spec) - moments_2C11[0]) / moments_2C11[1]
    return from_patches(x_MCpp, side).view(x_nVCSS.shape)


def normalised(images_nCSS: Tensor, normalise: Normalise) -> Tensor:
    """Whole images, uint8 RGB, without any change but of mean and deviation; float32 (n, C, S, S)."""
    moments_2C11 = _moments(normalise, images_nCSS.device)
    return (images_nCSS.float() / 255 - moments_2C11[0]) / moments_2C11[1]


@cache
def _moments(normalise: Normalise, device: torch.device) -> Tensor:
    """Mean and standard deviation (2, C, 1, 1)."""
    return constant(torch.tensor([normalise.mean, normalise.std])[..., None, None], device)
