"""`gmml corpus pack` on hostile arguments and images: one line each, nothing written beside the point."""

import io
import os
import tarfile

import click.testing
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from gmml_cluster.cli import corpus
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.reader.decode import BadImage, decode
from gmml_cluster.errors import GmmlError, SpecError
from gmml_cluster.store.open import open_store
from tests.fixtures.outputs import checked
from tests.unit.data.conftest import DATA, needs_photos, png


@pytest.fixture
def images(tmp_path, digits):
    for y in range(6):
        folder = tmp_path / "images" / f"class{y % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{y}.png").write_bytes(png(digits[y][0]))
    return tmp_path / "images"


def gmml(*arguments):
    done = click.testing.CliRunner().invoke(corpus.command, [*map(str, arguments)], standalone_mode=False)
    if done.exception is not None and not isinstance(done.exception, GmmlError):
        raise done.exception
    return done.exception, done.stdout


@pytest.mark.parametrize("url", ["gs://bucket/x", "hf://datasets/x", "S3://bucket/x", "s3:/bucket/x", "az:/x"])
def test_urls_of_unknown_schemes_are_refused_and_no_folder_is_made(images, tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ("pack", images, url),
        ("pack", url, tmp_path / "out"),
        ("index", url),
        ("index", images, "--root", url),
    ):
        error, _ = gmml(*arguments)
        assert isinstance(error, SpecError), arguments
        assert f"{url}: no store for " in str(error)
    with pytest.raises(SpecError, match="no store for"):
        open_store(url)
    assert os.listdir(tmp_path) == ["images"]


@pytest.mark.parametrize("arguments", [("pack", "", "out"), ("pack", "images", ""), ("index", "")])
def test_an_empty_url_is_not_the_current_folder(images, tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    assert "an empty URL" in str(gmml(*arguments)[0])


@pytest.mark.parametrize("arguments", [("pack", "a{1}", "d"), ("index", "a{1}")])
def test_a_brace_that_is_no_range_is_one_line(tmp_path, monkeypatch, arguments):
    monkeypatch.chdir(tmp_path)
    error, _ = gmml(*arguments)
    assert isinstance(error, SpecError)
    assert str(error).startswith("a{1}: {1} is no range; ")


def test_a_destination_inside_the_source_is_refused(images):
    assert "lies inside the source" in str(gmml("pack", images, images / "sub")[0])
    assert sorted(os.listdir(images)) == ["class0", "class1"]


def test_all_that_is_left_out_is_named_as_it_is_called(images, tmp_path):
    for y in range(25):
        (images / "class0" / f"half.{y}.png").write_bytes(b"\x89PNG")
    _, lines = gmml("pack", images, tmp_path / "a")
    assert f"left out {images}/class0/half." in lines
    assert "left out 5 more; packed.json and --json name all" in lines
    (document,) = checked("corpus-pack", gmml("pack", images, tmp_path / "b", "--json")[1])
    assert {line.split(": ")[0] for line in document["left_out"]} == {
        f"{images}/class0/half.{y}.png" for y in range(25)
    }
    assert (document["samples"], document["classes"], document["class_names"]) == (
        6,
        {"0": 3, "1": 3},
        ["class0", "class1"],
    )


def test_images_of_too_many_pixels_are_left_out(images, tmp_path):
    Image.new("RGB", (20, 20)).save(images / "class0" / "large.png")
    _, lines = gmml("pack", images, tmp_path / "out", "--max-pixels", 399)
    assert f"left out {images}/class0/large.png: 20 x 20 pixels; the limit is 399" in lines
    assert len(Samples(str(tmp_path / "out"))) == 6


def test_folders_that_look_like_splits_are_said_to_be_taken_for_classes(images):
    (images / "class0").rename(images / "train")
    (images / "class1").rename(images / "val")
    (note,) = find_source(str(images)).notes
    assert note.startswith("the folders 'train', 'val' are taken for classes, and look like splits")


@needs_photos
def test_damage_that_the_decoder_names_is_shown_and_can_be_refused(tmp_path):
    with tarfile.open(DATA / "photos" / "photos-000001.tar") as tar:
        name = next(name for name in tar.getnames() if name.endswith(".jpg"))
        data = tar.extractfile(name).read()
    (tmp_path / "in").mkdir()
    half = len(data) // 2
    (tmp_path / "in" / "damaged.jpg").write_bytes(data[:half] + b"\xff\xd9" + data[half + 2 :])
    (tmp_path / "in" / "sound.jpg").write_bytes(data)
    _, lines = gmml("pack", tmp_path / "in", tmp_path / "a")
    assert f"damaged, and packed: {tmp_path}/in/damaged.jpg: Corrupt JPEG data" in lines
    assert "2 samples in 1 shard" in lines
    _, lines = gmml("pack", tmp_path / "in", tmp_path / "b", "--refuse-damaged")
    assert f"left out {tmp_path}/in/damaged.jpg: Corrupt JPEG data" in lines
    assert "1 sample in 1 shard" in lines


def test_empty_files_and_jpegs_of_twelve_bits_are_named_as_such():
    with pytest.raises(BadImage, match=r"^0 bytes; the file is empty"):
        decode(b"", 10**6)
    held = io.BytesIO()
    Image.new("RGB", (8, 8)).save(held, "JPEG")
    data = bytearray(held.getvalue())
    data[data.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(BadImage, match="a JPEG of 12 bits a channel"):
        decode(bytes(data), 10**6)


def test_long_texts_in_a_png_do_not_make_it_bad(recwarn):
    pixels, texts = np.arange(48, dtype=np.uint8).reshape(4, 4, 3), PngInfo()
    texts.add_text("notes", "x" * (2 * 2**20), zip=True)
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG", pnginfo=texts)
    assert np.array_equal(decode(held.getvalue(), 10**6), pixels)
    assert not list(recwarn)
