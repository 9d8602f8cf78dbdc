"""Decoding: real photographs, awkward formats, and bytes that are no image."""

import io
import tarfile
from itertools import islice

import numpy as np
import pytest
from PIL import Image

from gmml_cluster.data.reader.decode import VIEWS_VERSION, BadImage, decode, decode_noting, decoder_name, views_version
from tests.unit.data.conftest import DATA, needs_photos, png

MOST = 50_000_000


def photos():
    for shard in sorted((DATA / "photos").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                if not member.name.endswith(".cls"):
                    yield member.name, tar.extractfile(member).read()


@needs_photos
def test_photographs_decode_as_pillow_decodes_them():
    some = list(islice(photos(), 0, None, 6))
    assert len(some) == 46
    for name, data in some:
        with Image.open(io.BytesIO(data)) as image:
            assert np.array_equal(decode(data, MOST), np.asarray(image.convert("RGB"))), name


def encoded(image, form, **options):
    held = io.BytesIO()
    image.save(held, form, **options)
    return held.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK", "RGBA", "P", "LA", "1"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_modes_become_rgb(mode, form):
    image = Image.linear_gradient("L").resize((20, 10)).convert(mode)
    try:
        data = encoded(image, form)
    except OSError:
        pytest.skip(f"{form} has no {mode}")
    found = decode(data, MOST)
    assert found.shape == (10, 20, 3)
    assert found.dtype == np.uint8
    with Image.open(io.BytesIO(data)) as image:
        assert np.array_equal(found, np.asarray(image.convert("RGB")))


def test_sixteen_bits_are_brought_to_eight():
    grey = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    assert np.array_equal(decode(png(grey), MOST)[..., 0], (grey >> 8).astype(np.uint8))


def test_exif_orientation_is_not_applied():
    image = Image.new("RGB", (30, 10))
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(encoded(image, "JPEG", exif=exif), MOST).shape == (10, 30, 3)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_images_of_too_many_pixels_are_bad_before_they_are_decoded(form):
    data = encoded(Image.new("RGB", (300, 200)), form)
    assert decode(data, 60_000).shape == (200, 300, 3)
    with pytest.raises(BadImage, match="300 x 200 pixels; the limit is 59999"):
        decode(data, 59_999)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("spoil", [lambda data: data[: len(data) // 2], lambda data: data[:12], lambda data: b""])
def test_damaged_images_are_bad(form, spoil):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    with pytest.raises(BadImage):
        decode(spoil(encoded(noise, form)), MOST)


def test_text_is_a_bad_image():
    with pytest.raises(BadImage):
        decode(b"<html>404</html>", MOST)


def test_decoder_names_its_versions():
    assert [part.split("-")[0] for part in decoder_name().split()] == ["simplejpeg", "Pillow", "opencv", "views"]
    assert views_version(decoder_name()) == VIEWS_VERSION
    assert views_version("simplejpeg-1.9.0 Pillow-13.0.0") == 1


@pytest.mark.parametrize("form", ["EPS", "GIF", "TIFF"])
def test_formats_beyond_jpeg_png_and_webp_are_never_opened(form):
    with pytest.raises(BadImage, match=r"^no image format is recognised; JPEG, PNG and WebP are read$"):
        decode(encoded(Image.new("RGB", (4, 4)), form), MOST)


def corrupt(data):
    """The JPEG with 200 bytes in its middle overwritten: decoders go on after the next marker."""
    middle = len(data) // 2
    return data[:middle] + bytes(200) + data[middle + 200 :]


def test_damage_that_the_decoder_names_is_noted_and_the_pixels_are_pillows():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    sound = encoded(noise, "JPEG", quality=95)
    assert decode_noting(sound, MOST).damage == ""
    pixels, damage = decode_noting(corrupt(sound), MOST)
    assert damage.startswith("Corrupt JPEG data: ")
    with Image.open(io.BytesIO(corrupt(sound))) as image:
        assert np.array_equal(pixels, np.asarray(image.convert("RGB")))


def test_bytes_in_a_view_of_a_longer_read_decode_without_a_copy():
    for form in ("JPEG", "PNG"):
        data = encoded(Image.linear_gradient("L").convert("RGB"), form)
        held = memoryview(b"before" + data + b"after")[6:-5]
        assert np.array_equal(decode(held, MOST), decode(data, MOST))
