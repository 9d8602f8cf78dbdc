"""Aligned views of which the first is weak: grey and solarise against Pillow, and one crop and flip for both."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageFilter, ImageOps

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.random import philox
from gmml_cluster.spec.augment import AUGMENTS, Augment, Blur, Jitter, Normalise

PLAIN = Normalise(mean=(0, 0, 0), std=(1, 1, 1))


def pixels(count: int = 64, views: int = 2) -> torch.Tensor:
    made = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (count, 1, 3, 16, 16), dtype=np.uint8))
    return made.expand(-1, views, -1, -1, -1).contiguous()


def made(augment: Augment, images: torch.Tensor) -> np.ndarray:
    found = prepare(images, torch.arange(len(images)), seed=7, augment=augment, normalise=PLAIN) * 255
    return np.asarray(found.numpy())


def pictures(images: torch.Tensor) -> list[Image.Image]:
    return [Image.fromarray(image[0].permute(1, 2, 0).numpy()) for image in images]


def test_solarise_is_pillows() -> None:
    images = pixels(4, 1)
    expected = [np.asarray(ImageOps.solarize(image, 128)).transpose(2, 0, 1) for image in pictures(images)]
    assert np.allclose(made(Augment(solarise=1), images)[:, 0], np.stack(expected), atol=1e-3)


def test_grey_is_pillows_but_for_its_rounding() -> None:
    images = pixels(4, 1)
    found = made(Augment(grey=1), images)[:, 0]
    expected = np.stack([np.asarray(image.convert("L")) for image in pictures(images)])
    assert np.abs(found - expected[:, None]).max() < 1


def colour_words(number: int, view: int = 0) -> np.ndarray:
    return philox.words(7, philox.Purpose.COLOUR, np.array([number]), 10, view)[0]


def by_pillow(image: Image.Image, name: str, strength: float, uniform: float) -> Image.Image:
    """One change of colour at the strength and the draw of the package."""
    factor = 1 + strength * (2 * uniform - 1)
    enhance = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "saturation": ImageEnhance.Color,
    }
    if name in enhance:
        return enhance[name](image).enhance(factor)
    hue, saturation, value = image.convert("HSV").split()
    turned = (np.asarray(hue).astype(int) + round(255 * strength * (2 * uniform - 1))) % 256
    return Image.merge("HSV", (Image.fromarray(turned.astype(np.uint8)), saturation, value)).convert("RGB")


@pytest.mark.parametrize(
    ("name", "strength", "word", "most", "mean"),
    [
        ("brightness", 0.4, 2, 1.01, 0.6),
        ("contrast", 0.4, 3, 1.5, 0.8),
        ("saturation", 0.2, 4, 1.5, 0.8),
        ("hue", 0.1, 5, 12, 2),
    ],
)
def test_a_change_of_colour_of_conmims_strength_is_pillows_but_for_rounding(
    name: str, strength: float, word: int, most: float, mean: float
) -> None:
    """In levels of 255. Pillow's hue has 256 steps, each of up to 6 levels of a channel."""
    images, none = pixels(8, 1), dict.fromkeys(("brightness", "contrast", "saturation", "hue"), 0.0)
    found = made(Augment(jitter=Jitter(probability=1, **{**none, name: strength})), images)[:, 0]
    for number, image in enumerate(pictures(images)):
        uniform = float(philox.uniform(colour_words(number))[word])
        expected = np.asarray(by_pillow(image, name, strength, uniform)).transpose(2, 0, 1).astype(float)
        far = np.abs(found[number] - expected)
        assert far.max() <= most, name
        assert far.mean() <= mean, name


def test_blur_is_pillows_at_the_drawn_standard_deviation() -> None:
    """Pillow takes three boxes for a Gaussian, so that single pixels differ; a radius 30 % off would differ more."""
    rng = np.random.default_rng(0)
    low = rng.integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
    smooth = np.stack([np.asarray(Image.fromarray(one).resize((48, 48), Image.Resampling.BICUBIC)) for one in low])
    images = torch.from_numpy(smooth.transpose(0, 3, 1, 2))[:, None].contiguous()
    found = made(Augment(blur=Blur(probability=1, radius=(1.0, 4.0))), images)[:, 0]
    for number, image in enumerate(pictures(images)):
        radius = 1 + 3 * float(philox.uniform(colour_words(number))[8])
        far = [
            np.abs(np.asarray(image.filter(ImageFilter.GaussianBlur(r))).transpose(2, 0, 1) - found[number]).mean()
            for r in (radius, 0.7 * radius, 1.3 * radius)
        ]
        assert far[0] < 1
        assert far[0] == min(far)


def test_the_strong_view_is_jittered_then_grey_then_blurred_then_solarised() -> None:
    preset = AUGMENTS["conmim"].model_copy(
        update={"jitter": None, "grey": 1.0, "solarise": 1.0, "crop": None, "flip": False}
    )
    preset = preset.model_copy(update={"blur": Blur(probability=1, radius=(1.0, 1.0))})
    images = pixels(4)
    for image, found in zip(pictures(images), made(preset, images)[:, 1], strict=True):
        grey = image.convert("L").convert("RGB").filter(ImageFilter.GaussianBlur(1.0))
        expected = np.asarray(ImageOps.solarize(grey, 128)).transpose(2, 0, 1).astype(float)
        assert (found[0] == found[1]).all(), "grey"
        assert found.max() <= 128.5, "solarised last: nothing is brighter than half"
        assert np.median(np.abs(found - expected)) < 6


def test_the_weak_view_is_the_image_and_both_are_flipped_together() -> None:
    images, preset = pixels(), AUGMENTS["conmim"]
    found = made(preset, images)
    flips = made(Augment(flip=True), images[:, :1])[:, 0]
    assert np.allclose(found[:, 0], flips, atol=1e-3)
    same = np.abs(found[:, 1] - found[:, 0]).reshape(64, -1).max(1) < 1e-3
    assert 1 <= same.sum() <= 20, "a strong view is left alone with probability 0.2 * 0.8 * 0.9 * 0.8"
    only_flipped = made(Augment(flip=True, aligned=True), images)
    assert np.array_equal(only_flipped[:, 0], only_flipped[:, 1])


def test_shares_are_the_released() -> None:
    images = torch.full((4000, 2, 3, 4, 4), 200, dtype=torch.uint8)
    images[:, :, 0] = 100
    grey = made(Augment(grey=0.2, weak_first=True), images)[:, 1]
    assert abs((grey[:, 0] == grey[:, 1]).all((1, 2)).mean() - 0.2) < 0.03
    solarised = made(Augment(solarise=0.2, weak_first=True), images)[:, 1, 1, 0, 0]
    assert abs((solarised < 128).mean() - 0.2) < 0.03
