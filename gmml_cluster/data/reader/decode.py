"""Encoded images to RGB pixels, uint8, as stored. EXIF orientation, alpha and colour profiles are ignored.

JPEGs go through simplejpeg (libjpeg-turbo), plain PNGs through OpenCV (libpng): both release the interpreter lock.
Everything else, and whatever these two refuse, goes through Pillow, which alone decides what is a bad image. An image's
size is read from its header and judged before anything is decoded.
"""

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from importlib.metadata import version
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Room = Callable[[int], Pixels]
"""Gives memory of at least so many bytes for the pixels of one image, uint8 (bytes,)."""

VIEWS_VERSION = 3
"""Version of decoding and cropping: raised whenever the same bytes and draws give other views. 1: interpolation of a
crop by its shorter side; 2: by each axis, and PNGs with long texts are read; 3: without IPP in every thread."""

# Pillow's remarks on damaged metadata name no sample and would be printed amid a command's output
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
Image.MAX_IMAGE_PIXELS = None  # the limit is the caller's, and Pillow has no other way to lift its own
_JPEG_MAGIC = b"\xff\xd8"
_PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
_PNG_TEXT = (b"tEXt", b"zTXt", b"iTXt", b"iCCP")
_PNG_START = struct.Struct(">8sI4siiBBBBB4xI4s")
"""Magic, length and name of the first chunk; width, height, bits, colours, three methods; its CRC; the next chunk."""
_PNG_CHUNK = struct.Struct(">I4s")
_PLAIN_COLOURS = (0, 2)  # grey and RGB
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow's others include one that starts a program
_MASK_MODES = ("1", "L", "P")
_PLAIN_JPEG = ("Gray", "YCbCr", "RGB")
_CORRUPT = "Corrupt JPEG data"


class BadImage(Exception):
    """These bytes are no image, or one that is too large: a bad sample, not a fault of storage."""


class ImageHeader(NamedTuple):
    """What the first bytes of a JPEG or of a plain PNG say."""

    height: int
    width: int
    colours: str = ""
    """The colour space of a JPEG, in simplejpeg's words."""


class Decoded(NamedTuple):
    """An image, and what its decoder complained of."""

    pixels: Pixels
    """RGB, uint8 (height, width, 3)."""
    damage: str = ""
    """libjpeg's warning where the JPEG's data is corrupt and pixels came out nevertheless, perhaps half of them grey;
    empty for all else."""


def decoder_name() -> str:
    """What decodes and crops, with versions: pixels depend on it, and so does the order where samples are bad."""
    libraries = [f"{name}-{version(name)}" for name in ("simplejpeg", "Pillow", "opencv-python-headless")]
    return " ".join([*libraries, f"views-{VIEWS_VERSION}"])


def views_version(decoder: str) -> int:
    """The version of decoding and cropping that a `decoder_name` names; 1 where it is older than this entry."""
    named = [int(part.removeprefix("views-")) for part in decoder.split() if part.startswith("views-")]
    return named[0] if named else 1


def decode(data: bytes | memoryview, max_pixels: int) -> Pixels:
    """The image's RGB pixels, uint8 (height, width, 3).

    Raises:
        BadImage: it cannot be decoded, or has more than `max_pixels` pixels.
    """
    return decode_noting(data, max_pixels).pixels


def decode_noting(
    data: bytes | memoryview, max_pixels: int, room: Room | None = None, header: ImageHeader | None = None
) -> Decoded:
    """The image's pixels, and whether the decoder found its data corrupt.

    Args:
        data: the encoded image.
        max_pixels: how many it may have.
        room: memory that the pixels may lie in; None allocates it, and the kernel then zeroes its pages first.
        header: what `read_header` found; None reads it here.

    Raises:
        BadImage: it cannot be decoded, or has more than `max_pixels` pixels.
    """
    damage, pixels = "", None
    if data[:2] == _JPEG_MAGIC:
        try:
            pixels = _decode_jpeg(data, max_pixels, room, header or _jpeg_header(data))
        except (
            ValueError
        ) as error:  # simplejpeg raises on libjpeg's warnings too; Pillow decodes such files without a warning
            damage = str(error) if str(error).startswith(_CORRUPT) else ""
    elif (plain := header or _plain_png(data)) and _is_intact(memoryview(data)):
        _limit(plain.height, plain.width, max_pixels)
        pixels = _decode_png(data)
    return Decoded(_decode_by_pillow(data, max_pixels) if pixels is None else pixels, damage)


def read_header(data: bytes | memoryview) -> ImageHeader | None:
    """The header of a JPEG or of a plain PNG; None where it takes a decoder to say."""
    if data[:2] == _JPEG_MAGIC:
        try:
            return _jpeg_header(data)
        except ValueError:
            return None
    return _plain_png(data)


def decode_mask(data: bytes | memoryview, shape: tuple[int, ...], table: NDArray[np.int16]) -> Pixels:
    """The class of each pixel of an image, uint8 (height, width): what `table` makes of the mask's values.

    Args:
        data: a PNG of one channel of at most eight bits: grey, or with a palette, whose colours are ignored.
        shape: height and width of the image.
        table: int16 (256,), the class of each value; -1 for values that a mask may not have.

    Raises:
        BadImage: it cannot be decoded, has another size than its image, or a value that no class has.
    """
    values = mask_values(data)
    if values.shape != shape[:2]:
        raise BadImage(f"its mask has {values.shape[1]} x {values.shape[0]} pixels, the image {shape[1]} x {shape[0]}")
    classes = table[values]
    if int(classes.min()) < 0:
        problem = f"its mask has the value {int(values[classes < 0].max())}, which is no class"
        raise BadImage(f"{problem}; method.classes, ignore and zero_ignored say which are")
    return classes.astype(np.uint8)


def mask_values(data: bytes | memoryview) -> Pixels:
    """The values of a mask's pixels, uint8 (height, width).

    Raises:
        BadImage: it cannot be decoded, or has more than one channel of eight bits.
    """
    if not len(data):
        raise BadImage("no mask beside it")
    try:
        with Image.open(io.BytesIO(_without_text(bytes(data))), formats=("PNG",)) as mask:
            if mask.mode not in _MASK_MODES:
                raise BadImage(f"its mask is a PNG of mode {mask.mode}; a mask has one channel of 8 bits")
            return np.asarray(mask).astype(np.uint8)
    except BadImage:
        raise
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them stumble over
        raise BadImage(f"its mask: {type(error).__name__}: {error}") from error


def _jpeg_header(data: bytes | memoryview) -> ImageHeader:
    """ValueError where simplejpeg refuses it."""
    return ImageHeader(*simplejpeg.decode_jpeg_header(data)[:3])


def _decode_jpeg(data: bytes | memoryview, max_pixels: int, room: Room | None, header: ImageHeader) -> Pixels | None:
    """The image, or None where its colour space is Pillow's to convert; ValueError where simplejpeg refuses it."""
    height, width, colours = header
    _limit(height, width, max_pixels)
    if colours not in _PLAIN_JPEG:
        return None
    buffer = None if room is None else room(3 * height * width)
    pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer)
    return pixels


def _plain_png(data: bytes | memoryview) -> ImageHeader | None:
    """The header of a PNG of 8 bits, grey or RGB, whose pixels follow its header at once; else None.

    Chunks between the two could change what pixels mean, and one that is damaged makes the image bad to Pillow alone.
    """
    if len(data) < _PNG_START.size:
        return None
    magic, length, name, width, height, bits, colours, *methods, _, following = _PNG_START.unpack_from(data)
    if (magic, length, name, following) != (_PNG_MAGIC, 13, b"IHDR", b"IDAT"):
        return None
    if bits != 8 or colours not in _PLAIN_COLOURS or any(methods) or min(height, width) < 1:
        return None
    return ImageHeader(height, width)


def _decode_png(data: bytes | memoryview) -> Pixels | None:
    """The image, or None where it is Pillow's to judge what is wrong with it."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        pixels: Pixels | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)  # type: ignore[assignment]  # any dtype
    except cv2.error:
        return None
    return pixels  # None where libpng refuses it


def _is_intact(png: memoryview) -> bool:
    """Whether all chunks are whole and agree with their CRCs; libpng would print what is wrong, and name no sample."""
    at, name = len(_PNG_MAGIC), b""
    while name != b"IEND":
        if at + 12 > len(png):
            return False
        length, name = _PNG_CHUNK.unpack_from(png, at)
        end = at + 8 + length
        if zlib.crc32(png[at + 4 : end]) != int.from_bytes(png[end : end + 4], "big"):
            return False
        at = end + 4
    return True


def _decode_by_pillow(data: bytes | memoryview, max_pixels: int) -> Pixels:
    if not len(data):
        raise BadImage("0 bytes; the file is empty")
    if data[:8] == _PNG_MAGIC:
        data = _without_text(bytes(data))
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _limit(image.height, image.width, max_pixels)
            return np.asarray(_eight_bits(image).convert("RGB"))
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        bits = _bits_of_jpeg(data)
        if bits not in (None, 8):
            raise BadImage(f"a JPEG of {bits} bits a channel; 8 are read") from error
        raise BadImage("no image format is recognised; JPEG, PNG and WebP are read") from error
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them stumble over
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _limit(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(f"{width} x {height} pixels; the limit is {max_pixels} (data.max_pixels)")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen bits of grey scaled to eight; Pillow's own conversion would clip them."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))


def _without_text(png: bytes) -> bytes:
    """A PNG without its texts and colour profile, which are not used: Pillow refuses images with long ones."""
    parts, at = [png[: len(_PNG_MAGIC)]], len(_PNG_MAGIC)
    while at + 8 <= len(png):
        (length,) = struct.unpack_from(">I", png, at)
        end = at + 12 + length
        if png[at + 4 : at + 8] not in _PNG_TEXT:
            parts.append(png[at:end])
        at = end
    return b"".join([*parts, png[at:]])


def _bits_of_jpeg(data: bytes | memoryview) -> int | None:
    """Bits a channel by a JPEG's frame header; None where there is none."""
    at = 2
    while data[:2] == _JPEG_MAGIC and at + 5 <= len(data) and data[at] == 0xFF:
        if data[at + 1] in _FRAMES:
            return data[at + 4]
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return None
