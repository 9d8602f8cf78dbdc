"""RandAugment against Pillow, operation by operation, and what is drawn."""

import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from gmml_cluster.data import rand_augment as subject
from gmml_cluster.data.augment import prepare
from gmml_cluster.data.random import philox
from gmml_cluster.data.random.philox_torch import words
from gmml_cluster.spec.augment import Augment, Normalise, RandAugment

PLAIN = Normalise(mean=(0, 0, 0), std=(1, 1, 1))
FILL = (124, 116, 104)
SIDE = 33


def pictures() -> list[Image.Image]:
    """Noise, a drawing with flat parts, a gradient of few levels, and one colour."""
    noise = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    drawing = Image.new("RGB", (SIDE, SIDE), (200, 40, 90))
    ImageDraw.Draw(drawing).ellipse((5, 8, 25, 29), (10, 250, 130))
    ramp = np.broadcast_to(np.arange(SIDE, dtype=np.uint8)[:, None, None] + 60, (SIDE, SIDE, 3))
    return [Image.fromarray(noise), drawing, Image.fromarray(ramp), Image.new("RGB", (SIDE, SIDE), (7, 99, 201))]


def pillows(image: Image.Image, name: str, level: float, sign: int) -> Image.Image:
    """The operation at a strength of 0 to 10, from Pillow's own."""
    share, factor = level / 10, max(0.1, 1 + sign * level / 10 * 0.9)
    enhancers = {
        "color": ImageEnhance.Color,
        "contrast": ImageEnhance.Contrast,
        "brightness": ImageEnhance.Brightness,
        "sharpness": ImageEnhance.Sharpness,
    }
    matrices = {
        "shear_x": (1, sign * share * 0.3, 0, 0, 1, 0),
        "shear_y": (1, 0, 0, sign * share * 0.3, 1, 0),
        "translate_x": (1, 0, sign * share * 0.45 * SIDE, 0, 1, 0),
        "translate_y": (1, 0, 0, 0, 1, sign * share * 0.45 * SIDE),
    }
    if name in enhancers:
        return enhancers[name](image).enhance(factor)
    if name in matrices:
        size, affine = image.size, Image.Transform.AFFINE
        return image.transform(size, affine, matrices[name], Image.Resampling.BICUBIC, fillcolor=FILL)
    added = min(128, int(share * 110))
    plain = {
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
        "invert": lambda: ImageOps.invert(image),
        "rotate": lambda: image.rotate(sign * share * 30, Image.Resampling.BICUBIC, fillcolor=FILL),
        "posterize": lambda: image.point(lambda v: v & ~(2 ** (4 + int(share * 4)) - 1)),
        "solarize": lambda: ImageOps.solarize(image, 256 - min(256, int(share * 256))),
        "solarize_add": lambda: image.point(lambda v: min(255, v + added) if v < 128 else v),
    }
    return plain[name]()


def batch(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) for image in images])


@pytest.mark.parametrize("name", subject.OPERATIONS)
def test_an_operation_is_pillows(name: str) -> None:
    """Equal but where float32 and float64 round down from two sides of a whole number: by 1, five of 10,000 at most."""
    levels = [(level, sign) for level in (0.0, 0.3, 4.5, 8.7, 9.0, 9.6, 10.0) for sign in (1, -1)]
    cases = [(image, level, sign) for image in pictures() for level, sign in levels]
    which = torch.full((len(cases), 1), subject.OPERATIONS.index(name))
    share = torch.tensor([[level / 10] for _, level, _ in cases], dtype=torch.float64)
    sign = torch.tensor([[float(sign)] for _, _, sign in cases], dtype=torch.float64)
    images = batch([image for image, _, _ in cases]).float()
    fill = torch.tensor(FILL, dtype=torch.float32)[:, None, None]
    found = subject.applied(images, subject.Drawn(which, share, sign), fill)
    expected = batch([pillows(image, name, level, sign) for image, level, sign in cases]).float()
    difference = (found - expected).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() <= 5e-4


def drawn_by_numpy(number: int, spec: RandAugment) -> list[tuple[str, float, int]]:
    """Operation, strength and sign of each applied operation, from the table of words."""
    w = philox.words(7, philox.Purpose.AUGMENT, np.array([number]), 8 * spec.operations)[0]
    found = []
    for k in range(spec.operations):
        which, applied, first, second, sign = w[8 * k : 8 * k + 5]
        if applied >> 8 >= 2**23:
            continue
        radius = math.sqrt(-2 * math.log(((first >> 8) + 1) * 2.0**-24))
        level = spec.magnitude + spec.deviation * radius * math.cos(2 * math.pi * (second >> 8) * 2.0**-24)
        name = subject.OPERATIONS[int(which) * 15 >> 32]
        found.append((name, min(10.0, max(0.0, level)), -1 if sign >> 8 < 2**23 else 1))
    return found


def test_a_batch_is_pillows_operations_one_after_another() -> None:
    """With the fill of the mean colour; a difference of one level may grow in the second operation."""
    image, numbers, spec = pictures()[1], range(60), RandAugment()
    mean = Normalise(mean=(124 / 255, 116 / 255, 104 / 255), std=(1, 1, 1))
    images = batch([image])[None].expand(60, 1, -1, -1, -1).contiguous()
    augment = Augment(rand_augment=spec)
    found = prepare(images, torch.tensor(numbers), seed=7, augment=augment, normalise=mean)[:, 0]
    found = (found + torch.tensor(FILL)[:, None, None] / 255) * 255
    expected = []
    for number in numbers:
        made = image
        for operation in drawn_by_numpy(number, spec):
            made = pillows(made, *operation)
        expected.append(made)
    difference = (found - batch(expected)).abs() > 0.01
    assert difference.float().mean() <= 1e-3


def test_operations_and_strengths_are_drawn_as_stated() -> None:
    drawn = words(7, philox.Purpose.AUGMENT, torch.arange(20000), 2 * subject.WORDS)
    which, share, sign = subject.drawn(drawn, RandAugment())
    counts = torch.bincount(which.flatten(), minlength=16) / which.numel()
    assert (counts[:15] - 1 / 30).abs().max() < 6 * math.sqrt(1 / 30 / 40000)
    assert counts[15].item() == pytest.approx(0.5, abs=0.015)
    assert share.mean().item() == pytest.approx(0.9 - 0.05 * 0.0085, abs=0.001)  # what is cut at 10
    assert share.max() == 1
    assert sign.mean().item() == pytest.approx(0, abs=0.03)


def test_how_many_images_are_augmented_at_once_changes_nothing() -> None:
    images = batch(pictures())[:, None].repeat(3, 1, 1, 1, 1)
    numbers = torch.arange(12) + 2**33
    augment = Augment(flip=True, rand_augment=RandAugment())
    whole = prepare(images, numbers, seed=7, augment=augment, normalise=PLAIN)
    parts = [
        prepare(images[part], numbers[part], seed=7, augment=augment, normalise=PLAIN)
        for part in torch.arange(12).split(5)
    ]
    assert torch.equal(whole, torch.cat(parts))
