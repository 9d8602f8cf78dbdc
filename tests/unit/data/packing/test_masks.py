"""A folder of images and one of masks become one corpus."""

import json

import click.testing
import numpy as np
import pytest

from gmml_cluster.cli import corpus
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.errors import DataError
from tests.unit.data.conftest import png
from tests.unit.data.masks import picture

TABLE = np.arange(256, dtype=np.int16)


@pytest.fixture
def folders(tmp_path):
    for y in range(6):
        for kind, pixels in zip(("images", "masks"), picture(y), strict=True):
            file = tmp_path / kind / "part" / f"{y}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(png(pixels))
    return tmp_path / "images", tmp_path / "masks"


def test_masks_of_the_same_names_are_packed_and_packed_again(folders, tmp_path):
    images, masks = folders
    (masks / "part" / "9.png").write_bytes(b"")
    (masks / "part" / "4.png").write_bytes(png(np.zeros((3, 3), np.uint8)))
    arguments = ["pack", str(images), str(tmp_path / "out"), "--masks", str(masks), "--json"]
    done = click.testing.CliRunner().invoke(corpus.command, arguments, standalone_mode=False)
    found = json.loads(done.stdout)
    assert (found["masks"], found["mask_values"]) == (5, [0, 1, 2, 3])
    assert found["notes"] == ["1 mask of no image, the first part/9.png"]
    assert [line.partition(": ")[2] for line in found["left_out"]] == ["its mask has 3 x 3 pixels, the image 16 x 12"]
    pack(find_source(str(tmp_path / "out")), str(tmp_path / "again"))
    for folder in ("out", "again"):
        samples = Samples(str(tmp_path / folder))
        pairs = samples.pairs(range(5), TABLE)
        for name, (image, mask) in zip(samples.names(range(5)), pairs, strict=True):
            expected = picture(int(name[len("part/")]))
            assert np.array_equal(image, expected[0])
            assert np.array_equal(mask, expected[1])


def test_an_image_without_a_mask_is_refused_by_name(folders):
    images, masks = folders
    (masks / "part" / "3.png").unlink()
    with pytest.raises(DataError, match=r"masks: 1 of 6 images without a mask there, the first part/3\.png"):
        find_source(str(images), masks=str(masks))
