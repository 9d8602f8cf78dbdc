"""Images of bytes: RGB, uint8, as stored. EXIF orientation is not applied.

JPEGs go through simplejpeg; all else, CMYK and whatever simplejpeg refuses through Pillow. How large an image is stands
in its header and is judged before anything is decoded.
"""

import io
from importlib.metadata import version

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]

Image.MAX_IMAGE_PIXELS = None  # the limit is the caller's, and Pillow has no other way to lift its own
_JPEG_MAGIC = b"\xff\xd8"
_FORMATS = ("JPEG", "PNG", "WEBP")  # Pillow's others include one that starts a program
_PLAIN_JPEG = ("Gray", "YCbCr", "RGB")


class BadImage(Exception):
    """These bytes make no image, or one that is too large: a bad sample, not a fault of storage."""


def decoder_name() -> str:
    """What decodes, with versions: a run's order depends on it where samples are bad."""
    return " ".join(f"{name}-{version(name)}" for name in ("simplejpeg", "Pillow", "opencv-python-headless"))


def decode(data: bytes, max_pixels: int) -> Pixels:
    """The image's RGB pixels, uint8 (height, width, 3).

    Raises:
        BadImage: it cannot be decoded, or has more than `max_pixels` pixels.
    """
    if data.startswith(_JPEG_MAGIC):
        decoded = _decode_jpeg(data, max_pixels)
        if decoded is not None:
            return decoded
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            _limit(image.height, image.width, max_pixels)
            return np.asarray(_eight_bits(image).convert("RGB"))
    except (BadImage, MemoryError):
        raise
    except UnidentifiedImageError as error:
        raise BadImage("no image format is recognised; JPEG, PNG and WebP are read") from error
    except Exception as error:  # Pillow's plug-ins raise whatever a damaged file makes them stumble over
        raise BadImage(f"{type(error).__name__}: {error}") from error


def _decode_jpeg(data: bytes, max_pixels: int) -> Pixels | None:
    """The image, or None where Pillow is to try."""
    try:
        height, width, space, _ = simplejpeg.decode_jpeg_header(data)
        _limit(height, width, max_pixels)
        if space not in _PLAIN_JPEG:
            return None
        pixels: Pixels = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError:
        return None
    return pixels


def _limit(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise BadImage(f"{width} x {height} pixels; the limit is {max_pixels} (data.max_pixels)")


def _eight_bits(image: Image.Image) -> Image.Image:
    """Sixteen bits of grey brought to eight; Pillow's own conversion would cut them off."""
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
