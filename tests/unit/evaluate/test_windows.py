"""Sliding windows against a plain count, pixel by pixel in numpy."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gmml_cluster.evaluate.masked import squeezed
from gmml_cluster.evaluate.windows import averaged, slid, starts, windows
from gmml_cluster.spec.augment import Normalise

HALF = Normalise(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("side", "window", "expected"),
    [(512, 512, [0]), (513, 512, [0, 1]), (853, 512, [0, 341]), (854, 512, [0, 341, 342]), (1024, 512, [0, 341, 512])],
)
def test_windows_are_two_thirds_apart_and_the_last_ends_with_the_image(side, window, expected):
    assert starts(side, window) == expected


def test_every_pixel_has_the_mean_of_the_windows_over_it():
    random, size, sides = np.random.default_rng(0), 6, (6, 17)
    corners = [(0, left) for left in starts(17, size)]
    maps = torch.from_numpy(random.standard_normal((len(corners), 3, 2, 2)))
    large = F.interpolate(maps, (size, size), mode="bilinear", align_corners=False).numpy()
    found = averaged(maps, corners, size, sides).numpy()
    for row, column in np.ndindex(*sides):
        over = [large[n, :, row, column - left] for n, (_, left) in enumerate(corners) if left <= column < left + size]
        assert found[:, row, column] == pytest.approx(np.mean(over, 0), abs=1e-12)


@pytest.mark.parametrize(("height", "width", "covered"), [(40, 30, (21, 16)), (30, 40, (16, 21)), (9, 8, (18, 16))])
def test_an_images_shorter_side_becomes_the_encoders_and_its_shape_stays(height, width, covered):
    image = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    cut, corners, sides = windows(image, 16, HALF, CPU)
    assert sides == covered
    assert cut.shape == (len(corners), 3, 16, 16)
    assert len(corners) == 2


def test_a_square_image_has_one_window_which_is_what_squeezing_gives():
    image = np.random.default_rng(2).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    seen = []

    def logits(images):
        seen.append(images)
        return images[:, :, ::4, ::4]

    found = slid(logits, image, 16, HALF, CPU)
    assert torch.equal(seen[0], squeezed([(image, image[..., 0])], 16, HALF, CPU))
    assert found.shape == (3, 16, 16)
