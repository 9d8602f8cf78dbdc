"""Images shrunk on packing: the shorter side, the mean of the area, the class at the centre."""

import numpy as np
import pytest

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing import resize
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from tests.unit.data.conftest import png


@pytest.mark.parametrize(("height", "width", "expected"), [(40, 60, (20, 30)), (61, 40, (30, 20)), (1000, 20, None)])
def test_the_shorter_side_gets_the_length_and_the_other_follows(height, width, expected):
    pixels = np.zeros((height, width, 3), np.uint8)
    if expected is None:
        assert resize.fits(pixels, 20)
    else:
        assert not resize.fits(pixels, 20)
        assert resize.shrink(pixels, 20).shape[:2] == expected


def test_pixels_are_means_and_classes_are_never_mixed():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    means = pixels.reshape(4, 2, 4, 2, 3).mean((1, 3))
    assert np.abs(resize.shrink(pixels, 4).astype(float) - means).max() <= 0.5
    mask = np.arange(36, dtype=np.uint8).reshape(6, 6)
    assert np.array_equal(resize.shrink_mask(mask, 2), mask[1::3, 1::3])


def test_large_images_are_shrunk_with_their_masks_and_small_ones_go_in_as_they_are(tmp_path):
    draws = np.random.default_rng(1)
    shapes = {"small": (8, 9), "large": (32, 48)}
    values = {}
    for name, shape in shapes.items():
        for kind in ("images", "masks"):
            (tmp_path / kind).mkdir(exist_ok=True)
        values[name] = (
            draws.integers(0, 256, (*shape, 3)).astype(np.uint8),
            draws.integers(0, 4, shape).astype(np.uint8),
        )
        (tmp_path / "images" / f"{name}.png").write_bytes(png(values[name][0]))
        (tmp_path / "masks" / f"{name}.png").write_bytes(png(values[name][1]))
    source = find_source(str(tmp_path / "images"), masks=str(tmp_path / "masks"))
    packed = pack(source, str(tmp_path / "out"), short_side=16)
    samples = Samples(str(tmp_path / "out"))
    names = [name.partition(".")[0] for name in samples.names(range(2))]
    pairs = dict(zip(names, samples.pairs(range(2), np.arange(256, dtype=np.int16)), strict=True))
    assert np.array_equal(pairs["small"][0], values["small"][0])
    assert np.array_equal(pairs["small"][1], values["small"][1])
    assert np.array_equal(pairs["large"][0], resize.shrink(values["large"][0], 16))
    assert np.array_equal(pairs["large"][1], resize.shrink_mask(values["large"][1], 16))
    assert packed.mask_values == (0, 1, 2, 3)
    means = np.stack([pair[0].reshape(-1, 3).mean(0) / 255 for pair in pairs.values()]).mean(0)
    assert packed.mean == pytest.approx(means.tolist())


def test_a_shrunk_photograph_is_a_jpeg_and_a_webp_becomes_one():
    pixels = np.full((4, 4, 3), (10, 200, 90), np.uint8)
    for extension in ("jpg", "jpeg", "webp"):
        data, ending = resize.encode(pixels, extension)
        assert (data[:2], ending) == (b"\xff\xd8", "jpg")
    assert resize.encode(pixels, "png")[1] == "png"
