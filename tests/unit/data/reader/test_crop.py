"""Crop boxes against a scalar implementation of METHODS 9.1, and views against Pillow."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gmml_cluster.data.reader.crop import Box, crop_box, crop_words, resize
from gmml_cluster.spec.job import AUGMENTS, Crop
from tests.unit.data.reader.order_oracle import philox

sides = st.integers(1, 2000)
crops = st.sampled_from([Crop(), Crop(scale=(0.2, 1.0)), Crop(scale=(0.9, 1.0), ratio=(0.5, 0.6)), None])


def oracle(seed, n, view, height, width, crop):
    """One box, word by word."""
    if crop is None:
        side = min(height, width)
        return Box((height - side) // 2, (width - side) // 2, side, side)
    for t in range(10):
        area, aspect, top, left = philox((seed, 16), (n % 2**32, n >> 32, t, view))
        target = height * width * (crop.scale[0] + (crop.scale[1] - crop.scale[0]) * ((area >> 8) / 2**24))
        low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
        ratio = math.exp(low + (high - low) * ((aspect >> 8) / 2**24))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if 0 < w <= width and 0 < h <= height:
            return Box(top * (height - h + 1) >> 32, left * (width - w + 1) >> 32, h, w)
    h, w = height, width
    if width / height < crop.ratio[0]:
        h = max(1, round(width / crop.ratio[0]))
    elif width / height > crop.ratio[1]:
        w = max(1, round(height * crop.ratio[1]))
    return Box((height - h) // 2, (width - w) // 2, h, w)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**60), sides, sides, crops)
def test_boxes_equal_the_scalar_oracle(seed, n, height, width, crop):
    drawn = crop_words(seed, np.array([n]), 2)
    for view in range(2):
        assert crop_box(drawn[0, view], height, width, crop) == oracle(seed, n, view, height, width, crop)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**40), sides, sides, crops)
def test_boxes_lie_within_the_image(n, height, width, crop):
    box = crop_box(crop_words(3, np.array([n]), 1)[0, 0], height, width, crop)
    assert 0 <= box.top <= box.top + box.height <= height
    assert 0 <= box.left <= box.left + box.width <= width
    assert min(box.height, box.width) > 0


def test_areas_of_boxes_follow_the_scale():
    drawn = crop_words(5, np.arange(2000), 1)[:, 0]
    boxes = [crop_box(words, 1000, 1000, Crop(scale=(0.2, 1.0))) for words in drawn]
    shares = np.array([box.height * box.width / 1e6 for box in boxes])
    assert shares.min() > 0.199
    tried = np.sort(shares)
    assert np.abs(tried[[500, 1000]] - [0.38, 0.56]).max() < 0.05


def test_views_are_drawn_independently():
    drawn = crop_words(5, np.arange(4), 2)
    assert drawn.shape == (4, 2, 40)
    assert not (drawn[:, 0] == drawn[:, 1]).any()


def gradient(height, width):
    rows, columns = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    return np.stack(np.broadcast_arrays(rows, columns, (rows + columns) / 2), -1).astype(np.uint8)


@pytest.mark.parametrize(("height", "width"), [(300, 200), (60, 90), (32, 32), (10, 12)])
def test_views_look_as_pillows_do(height, width):
    image, box = gradient(height, width), Box(2, 3, height - 5, width - 4)
    view = resize(image, box, 32)
    part = Image.fromarray(image[2 : height - 3, 3 : width - 1])
    expected = np.asarray(part.resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1).astype(int)
    assert view.shape == (3, 32, 32)
    assert np.abs(view.astype(int) - expected).max() <= 4


def test_image_of_the_views_size_is_taken_as_it_is():
    image = gradient(24, 24)
    box = crop_box(np.zeros(40, np.uint32), 24, 24, AUGMENTS["none"].crop)
    assert np.array_equal(resize(image, box, 24).transpose(1, 2, 0), image)
