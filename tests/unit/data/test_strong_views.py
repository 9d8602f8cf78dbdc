"""Aligned views of which the first is weak: grey and solarise against Pillow, and one crop and flip for both."""

import numpy as np
import torch
from PIL import Image, ImageOps

from gmml_cluster.data.augment import prepare
from gmml_cluster.spec.augment import AUGMENTS, Augment, Normalise

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
