"""Random erasing: boxes against a loop over tries, their share, and what stands in them."""

import math

import numpy as np
import pytest
import torch

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.erase import WORDS, boxes
from gmml_cluster.data.random import philox
from gmml_cluster.data.random.philox_torch import words
from gmml_cluster.spec.augment import Augment, Erase, Normalise

PLAIN = Normalise(mean=(0, 0, 0), std=(1, 1, 1))


def box_by_hand(w: np.ndarray, probability: float, size: int) -> list[int]:
    if (int(w[0]) >> 8) >= probability * 2**24:
        return [0, 0, 0, 0]
    for t in range(1, 11):
        area, aspect = ((int(word) >> 8) * 2.0**-24 for word in w[4 * t : 4 * t + 2])
        pixels = size**2 * (0.02 + (1 / 3 - 0.02) * area)
        shape = math.exp(math.log(0.3) + (math.log(1 / 0.3) - math.log(0.3)) * aspect)
        height, width = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if height < size and width < size:
            top, left = (
                int(word) * (size + 1 - side) >> 32
                for word, side in zip(w[4 * t + 2 : 4 * t + 4], (height, width), strict=True)
            )
            return [top, left, top + height, left + width]
    return [0, 0, 0, 0]


@pytest.mark.parametrize(("size", "probability"), [(8, 1.0), (32, 0.25), (224, 1.0)])
def test_boxes_are_those_of_a_loop_over_tries(size: int, probability: float) -> None:
    numbers = torch.arange(1000)
    found = boxes(words(7, philox.Purpose.ERASE, numbers, WORDS), Erase(probability=probability), size)
    drawn = philox.words(7, philox.Purpose.ERASE, numbers.numpy(), WORDS)
    assert found.tolist() == [box_by_hand(w, probability, size) for w in drawn]


def test_a_try_that_does_not_fit_is_followed_by_the_next() -> None:
    """The greatest area at the greatest aspect is higher than the image."""
    drawn = words(7, philox.Purpose.ERASE, torch.arange(1), WORDS)
    drawn[:, 0] = 0
    drawn[:, 4:6], drawn[:, 8:12] = 2**32 - 1, torch.tensor([0, 2**31, 0, 2**32 - 1])
    assert boxes(drawn, Erase(), 32).tolist() == [[0, 27, 5, 32]]
    drawn[:, 4:] = 2**32 - 1
    assert boxes(drawn, Erase(), 32).tolist() == [[0, 0, 0, 0]]


def test_a_quarter_of_the_views_has_normal_noise_in_its_box_and_all_else_is_kept() -> None:
    images = torch.randint(256, (2000, 2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    plain, erased = (
        prepare(images, torch.arange(2000), seed=7, augment=augment, normalise=PLAIN)
        for augment in (Augment(), Augment(erase=Erase()))
    )
    changed = (plain != erased).all(2)
    box = boxes(words(7, philox.Purpose.ERASE, torch.arange(2000), WORDS, stream=1), Erase(), 16)
    assert changed[:, 1].sum((1, 2)).tolist() == ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).tolist()
    assert changed.any((2, 3)).float().mean().item() == pytest.approx(0.25, abs=0.03)
    noise = erased[changed[:, :, None].expand_as(erased)]
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.02)


def test_the_noise_is_that_of_the_streams_from_8_on() -> None:
    images, number = torch.zeros(1, 1, 3, 8, 8, dtype=torch.uint8), torch.tensor([5])
    found = prepare(images, number, seed=7, augment=Augment(erase=Erase(probability=1)), normalise=PLAIN)[0, 0]
    top, left, bottom, right = boxes(words(7, philox.Purpose.ERASE, number, WORDS), Erase(probability=1), 8)[0].tolist()
    first, second = (philox.words(7, 41, np.array([5]), 192, stream=8)[0].reshape(-1, 2).T >> 8).astype(float)
    radius, angle = np.sqrt(-2 * np.log((first + 1) * 2.0**-24)), 2 * np.pi * second * 2.0**-24
    noise = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1).reshape(3, 8, 8)
    inside = np.s_[:, top:bottom, left:right]
    assert found.numpy()[inside] == pytest.approx(noise[inside], abs=1e-5)
