"""Decoding: real photographs, awkward formats, and bytes that are no image."""

import io
import struct
import tarfile
import zlib
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from gmml_cluster.data.reader import decode as decoding
from gmml_cluster.data.reader.decode import (
    VIEWS_VERSION,
    BadImage,
    decode,
    decode_noting,
    decoder_name,
    read_header,
    views_version,
)
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


def chunk(name, body):
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def plain_png(pixels, *, before=b"", after=b"", change=lambda stream: stream):
    """A PNG written by hand: chunks before and after the pixels, and the stream of these changed."""
    height, width = pixels.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    stream = zlib.compress(b"".join(b"\0" + row.tobytes() for row in pixels))
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", change(stream)), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def outcome(data):
    """The pixels, or why the image is bad."""
    try:
        return decode(data, MOST).tolist()
    except BadImage as error:
        return str(error)


def pillows(data, monkeypatch):
    """The outcome where Pillow decodes PNGs, as it does in versions before this."""
    with monkeypatch.context() as patched:
        patched.setattr(decoding, "_plain_png", lambda data: None)
        return outcome(data)


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as patched:
        yield patched


def some_pixels(seed, height, width, colours):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3)[: 2 + (colours == 3)], dtype=np.uint8)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 99), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3]), st.data())
def test_a_plain_png_whole_cut_or_damaged_comes_out_as_pillow_alone_would_have_it(
    patch, seed, height, width, colours, data
):
    pixels = some_pixels(seed, height, width, colours)
    whole = png(pixels)
    assert read_header(whole)[:2] == (height, width)
    assert np.array_equal(decode(whole, MOST), np.broadcast_to(pixels.reshape(height, width, -1), (height, width, 3)))
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :]
    for damaged in (flipped, whole[:at]):
        assert outcome(damaged) == pillows(damaged, patch)


EXIF_TURNED = chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
ODD_PNGS = {
    "turned by EXIF": {"after": EXIF_TURNED},
    "turned by EXIF before": {"before": EXIF_TURNED},
    "gamma": {"before": chunk(b"gAMA", struct.pack(">I", 20000))},
    "transparent colour": {"before": chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))},
    "transparent colour, late": {"after": chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3))},
    "chunk with a wrong CRC": {"before": chunk(b"pHYs", bytes(9))[:-1] + b"?"},
    "chunk with a wrong CRC, late": {"after": chunk(b"tEXt", b"a\0b")[:-1] + b"?"},
    "a second IDAT": {"after": chunk(b"IDAT", b"")},
    "wrong Adler": {"change": lambda stream: stream[:-1] + bytes([stream[-1] ^ 1])},
    "no Adler": {"change": lambda stream: stream[:-4]},
    "rest after the stream": {"change": lambda stream: stream + b"more"},
    "one row too many": {"change": lambda stream: zlib.compress(zlib.decompress(stream) + bytes(13 * 3 + 1))},
    "one row too few": {"change": lambda stream: zlib.compress(zlib.decompress(stream)[: -(13 * 3 + 1)])},
    "an unknown filter": {"change": lambda stream: zlib.compress(b"\x09" + zlib.decompress(stream)[1:])},
    "no stream": {"change": lambda stream: b""},
}


@pytest.mark.parametrize("odd", ODD_PNGS)
def test_an_odd_png_is_what_it_is_to_pillow(odd, patch):
    data = plain_png(some_pixels(1, 7, 13, 3), **ODD_PNGS[odd])
    assert outcome(data) == pillows(data, patch)


def test_pngs_of_other_kinds_are_left_to_pillow(monkeypatch):
    refused = []
    monkeypatch.setattr(decoding, "_decode_png", refused.append)
    kinds = [Image.new("L", (5, 4)).convert(mode) for mode in ("1", "P", "LA", "RGBA")]
    for image in (*kinds, Image.fromarray(np.zeros((4, 5), np.uint16))):
        decode(encoded(image, "PNG"), MOST)
    assert refused == []
    decode(png(some_pixels(1, 4, 5, 3)), MOST)
    assert len(refused) == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_size_by_the_header_is_that_of_the_pixels_or_unknown(form):
    data = encoded(Image.new("RGB", (300, 200)), form)
    header = read_header(data)
    assert header is None if form == "WEBP" else header[:2] == (200, 300)
    for spoilt in (data[:30], data[:3], b"", b"<html>404</html>"):
        assert read_header(spoilt) is None


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_header_that_was_read_changes_nothing(form):
    data = encoded(Image.linear_gradient("L").convert("RGB").resize((40, 30)), form)
    assert np.array_equal(decode_noting(data, MOST, header=read_header(data)).pixels, decode(data, MOST))
    with pytest.raises(BadImage, match="40 x 30 pixels; the limit is 1199"):
        decode_noting(data, 1199, header=read_header(data))


def test_a_jpeg_is_decoded_into_the_memory_that_is_given():
    image = Image.linear_gradient("L").convert("RGB").resize((40, 30))
    data, asked = encoded(image, "JPEG"), []

    def room(size):
        asked.append(np.zeros(size + 100, np.uint8))
        return asked[-1]

    pixels = decode_noting(data, MOST, room).pixels
    assert np.array_equal(pixels, decode(data, MOST))
    assert [len(each) for each in asked] == [30 * 40 * 3 + 100]
    assert np.shares_memory(pixels, asked[0])
