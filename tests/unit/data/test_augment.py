"""Augmentation of a batch against one image at a time: colours by `colorsys`, blur by a sum over neighbours."""

import numpy as np
import pytest
import torch

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.random import philox
from gmml_cluster.spec.augment import AUGMENTS, NORMALISATIONS, Augment, Blur, Jitter, Normalise
from tests.fixtures.tolerances import ULP, assert_array_close_to_scale
from tests.unit.data.colours import adjusted

PLAIN = Normalise(mean=(0, 0, 0), std=(1, 1, 1))
SEED, SIDE, COUNT = 11, 8, 60


def images(count: int = COUNT, views: int = 2, side: int = SIDE) -> torch.Tensor:
    drawn = np.random.default_rng(0).integers(0, 256, (count, views, 3, side, side), dtype=np.uint8)
    drawn[0, :, :, :4] = 200  # grey: no hue
    return torch.from_numpy(drawn)


def made(augment: Augment, pixels: torch.Tensor, first: int = 0) -> np.ndarray:
    numbers = torch.arange(first, first + len(pixels))
    return prepare(pixels, numbers, seed=SEED, augment=augment, normalise=PLAIN).numpy()


def words(purpose: philox.Purpose, number: int, view: int) -> np.ndarray:
    return philox.words(SEED, purpose, np.array([number]), 9, view)[0]


@pytest.mark.parametrize("strength", [0.1, 0.9])
def test_colour_jitter_is_that_of_single_images(strength: float) -> None:
    spec = Jitter(probability=0.8, brightness=strength, contrast=strength, saturation=strength, hue=strength / 2)
    pixels = images()
    found = made(Augment(jitter=spec), pixels)
    orders = {int(philox.integer(words(philox.Purpose.COLOUR, n, v), 24)[1]) for n in range(COUNT) for v in range(2)}
    assert len(orders) == 24, "every order of the four operations is met"
    for number, view in np.ndindex(COUNT, 2):
        single = pixels[number, view].numpy().transpose(1, 2, 0) / 255
        expected = adjusted(single, words(philox.Purpose.COLOUR, number, view), spec).transpose(2, 0, 1)
        np.testing.assert_allclose(found[number, view], expected, rtol=0, atol=64 * ULP)


def blurred(pixels: np.ndarray, radius: float) -> np.ndarray:
    """Gaussian blur of one image (3, side, side), its border continued, far beyond where weights vanish."""
    reach = 12
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / radius) ** 2)
    padded = np.pad(pixels, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    side = pixels.shape[1]
    rows = sum(w * padded[:, k : k + side] for k, w in enumerate(taps / taps.sum()))
    return sum(w * rows[:, :, k : k + side] for k, w in enumerate(taps / taps.sum()))


def test_blur_is_that_of_single_images() -> None:
    spec, pixels = Blur(probability=0.5, radius=(0.1, 2.0)), images(20)
    found = made(Augment(blur=spec), pixels)
    seen = set()
    for number, view in np.ndindex(20, 2):
        w = words(philox.Purpose.COLOUR, number, view)
        on, radius = bool(philox.bernoulli(w, 0.5)[7]), 0.1 + 1.9 * float(philox.uniform(w)[8])
        single = pixels[number, view].numpy() / 255
        np.testing.assert_allclose(found[number, view], blurred(single, radius) if on else single, rtol=0, atol=1e-4)
        seen.add(on)
    assert seen == {True, False}


def test_half_of_the_views_are_mirrored_each_by_its_own_draw() -> None:
    pixels = images(400)
    found, clean = made(Augment(flip=True), pixels), pixels.numpy() / np.float32(255)
    mirrored = (found == clean[..., ::-1]).all((2, 3, 4))
    assert ((found == clean).all((2, 3, 4)) != mirrored).all()
    drawn = [[bool(philox.bernoulli(words(philox.Purpose.FLIP, n, v), 0.5)[0]) for v in range(2)] for n in range(400)]
    assert mirrored.tolist() == drawn
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / 800**0.5
    assert (mirrored[:, 0] != mirrored[:, 1]).any()


def test_normalisation_comes_last() -> None:
    pixels, imagenet = images(4), NORMALISATIONS["imagenet"]
    found = prepare(pixels, torch.arange(4), seed=0, augment=AUGMENTS["none"], normalise=imagenet)
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (imagenet.mean, imagenet.std))
    assert found.dtype == torch.float32
    assert_array_close_to_scale(found.numpy(), (pixels.numpy() / 255 - mean) / std, ulps=16)


def test_a_sample_looks_the_same_in_any_batch() -> None:
    pixels = images(8)
    whole = made(AUGMENTS["gmml"], pixels, first=96)
    for part in (slice(0, 4), slice(4, 8)):
        alone = made(AUGMENTS["gmml"], pixels[part], first=96 + part.start)
        # a matrix product may sum in another order at another batch size
        assert_array_close_to_scale(alone, whole[part], ulps=4)
