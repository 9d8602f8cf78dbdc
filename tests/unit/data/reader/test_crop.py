"""Crop boxes against a scalar implementation of docs/reference/draws.md, and views against Pillow."""

import math
import tarfile

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gmml_cluster.data.reader.crop import crop_boxes, draw_crops, resize
from gmml_cluster.data.reader.decode import decode
from gmml_cluster.spec.augment import Crop
from tests.unit.data.conftest import DATA, needs_photos
from tests.unit.data.reader.order_oracle import philox

sides = st.integers(1, 2000)
CLAMPED = Crop(scale=(0.08, 1.0), clamped=True)
crops = st.sampled_from([Crop(), Crop(scale=(0.2, 1.0)), Crop(scale=(0.9, 1.0), ratio=(0.5, 0.6)), CLAMPED, None])


def boxes(seed, numbers, sizes, crop, views=1):
    """Boxes of some numbers and image sizes (height, width), (n, views, 4)."""
    sizes = np.array(sizes)
    return crop_boxes(draw_crops(seed, np.array(numbers), views, crop), sizes[:, 0], sizes[:, 1])


def oracle(seed, n, view, height, width, crop):
    """One box, word by word."""
    if crop is None:
        side = min(height, width)
        return [(height - side) // 2, (width - side) // 2, side, side]
    for t in range(10):
        area, aspect, top, left = philox((seed, 16), (n % 2**32, n >> 32, t, view))
        target = height * width * (crop.scale[0] + (crop.scale[1] - crop.scale[0]) * ((area >> 8) / 2**24))
        low, high = math.log(crop.ratio[0]), math.log(crop.ratio[1])
        ratio = math.exp(low + (high - low) * ((aspect >> 8) / 2**24))
        w, h = round(math.sqrt(target * ratio)), round(math.sqrt(target / ratio))
        if crop.clamped:
            w, h = min(w, width), min(h, height)
        if 0 < w <= width and 0 < h <= height:
            return [top * (height - h + 1) >> 32, left * (width - w + 1) >> 32, h, w]
    h, w = height, width
    if width / height < crop.ratio[0]:
        h = max(1, round(width / crop.ratio[0]))
    elif width / height > crop.ratio[1]:
        w = max(1, round(height * crop.ratio[1]))
    return [(height - h) // 2, (width - w) // 2, h, w]


@settings(max_examples=100, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.tuples(st.integers(0, 2**60), sides, sides), min_size=1, max_size=5),
    crops,
)
def test_boxes_of_many_samples_equal_the_scalar_oracle(seed, samples, crop):
    found = boxes(seed, [n for n, _, _ in samples], [size for _, *size in samples], crop, views=2)
    expected = [[oracle(seed, n, view, h, w, crop) for view in range(2)] for n, h, w in samples]
    assert found.tolist() == expected


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**40), sides, sides, crops)
def test_boxes_lie_within_the_image(n, height, width, crop):
    top, left, h, w = boxes(3, [n], [(height, width)], crop)[0, 0].tolist()
    assert 0 <= top <= top + h <= height
    assert 0 <= left <= left + w <= width
    assert min(h, w) > 0


def test_areas_of_boxes_follow_the_scale():
    found = boxes(5, range(2000), [(1000, 1000)] * 2000, Crop(scale=(0.2, 1.0)))[:, 0]
    shares = found[:, 2] * found[:, 3] / 1e6
    assert shares.min() > 0.199
    tried = np.sort(shares)
    assert np.abs(tried[[500, 1000]] - [0.38, 0.56]).max() < 0.05


def test_views_are_drawn_independently():
    draws = draw_crops(5, np.arange(4), 2, Crop())
    assert draws.top.shape == (4, 2, 10)
    assert not (draws.top[:, 0] == draws.top[:, 1]).any()


def gradient(height, width):
    rows, columns = np.linspace(0, 255, height)[:, None], np.linspace(0, 255, width)[None]
    return np.stack(np.broadcast_arrays(rows, columns, (rows + columns) / 2), -1).astype(np.uint8)


def view_of(image, box, size):
    view = np.empty((3, size, size), np.uint8)
    resize(image, box, view)
    return view.transpose(1, 2, 0)


def by_pillow(part, size):
    return np.asarray(Image.fromarray(part).resize((size, size), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width"), [(300, 200), (60, 90), (32, 32), (10, 12), (40, 300), (300, 40)])
def test_views_look_as_pillows_do(height, width):
    image = gradient(height, width)
    view = view_of(image, (2, 3, height - 5, width - 4), 32)
    expected = by_pillow(image[2 : height - 3, 3 : width - 1], 32).astype(int)
    assert np.abs(view.astype(int) - expected).max() <= 4


@pytest.mark.parametrize(("height", "width"), [(64, 64), (200, 70), (63, 63), (20, 33), (64, 65)])
def test_an_interpolation_of_both_axes_is_one_call(height, width):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    rule = cv2.INTER_AREA if min(height, width) >= 64 else cv2.INTER_CUBIC
    assert np.array_equal(view_of(image, (0, 0, height, width), 32), cv2.resize(image, (32, 32), interpolation=rule))


@pytest.mark.parametrize("transposed", [False, True])
def test_an_axis_that_shrinks_by_two_is_averaged_whatever_the_other_does(transposed):
    """Stripes of one pixel along the axis that shrinks: averaged they are grey, sampled they are not."""
    image = np.zeros((24, 96, 3), np.uint8)
    image[:, ::2] = 200
    image = image.transpose(1, 0, 2) if transposed else image
    view = view_of(np.ascontiguousarray(image), (0, 0, *image.shape[:2]), 24)
    assert np.abs(view.astype(int) - 100).max() <= 1


def psnr(one, other):
    return 10 * math.log10(255**2 / np.mean((one.astype(float) - other) ** 2))


@needs_photos
def test_crops_of_photographs_with_one_axis_shrinking_are_nearer_to_pillow_than_plain_cubic():
    with tarfile.open(DATA / "photos" / "photos-000004.tar") as tar:
        members = [m for m in tar if m.name.endswith(".jpg")][:30]
        photos = [decode(tar.extractfile(member).read(), 10**8) for member in members]
    ours, cubic = [], []
    for image in photos:
        part = np.ascontiguousarray(image[:200, :300])
        if part.shape[:2] == (200, 300):
            pillow = by_pillow(part, 112)
            ours.append(psnr(view_of(part, (0, 0, 200, 300), 112), pillow))
            cubic.append(psnr(cv2.resize(part, (112, 112), interpolation=cv2.INTER_CUBIC), pillow))
    assert len(ours) >= 20
    assert np.median(ours) > np.median(cubic) + 1


def test_image_of_the_views_size_is_taken_as_it_is():
    image = gradient(24, 24)
    box = boxes(0, [0], [(24, 24)], None)[0, 0]
    assert np.array_equal(view_of(image, box, 24), image)
