"""Images shrunk before they are packed."""

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

JPEG_QUALITY = 95
_PNG = "png"


def fits(pixels: NDArray[np.uint8], short_side: int) -> bool:
    """Whether an image (height, width, 3) needs no shrinking."""
    return bool(min(pixels.shape[:2]) <= short_side)


def shrink(pixels: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """The image with its shorter side of this length, the longer one rounded; the mean of the area of each pixel."""
    shrunk = cv2.resize(pixels, _size(pixels, short_side), interpolation=cv2.INTER_AREA)
    return np.asarray(shrunk, np.uint8)


def shrink_mask(values: NDArray[np.uint8], short_side: int) -> NDArray[np.uint8]:
    """A mask (height, width) likewise: each pixel has the value at its centre, as no class is ever interpolated."""
    shrunk = cv2.resize(values, _size(values, short_side), interpolation=cv2.INTER_NEAREST_EXACT)
    return np.asarray(shrunk, np.uint8)


def encode(pixels: NDArray[np.uint8], extension: str) -> tuple[bytes, str]:
    """An RGB image as a PNG if it came as one, else as a JPEG of quality 95 without subsampling; and its extension."""
    if extension == _PNG:
        return encode_png(pixels[..., ::-1]), _PNG
    data: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), JPEG_QUALITY, "RGB", "444")
    return data, "jpg"


def encode_png(pixels: NDArray[np.uint8]) -> bytes:
    """Grey (height, width) or BGR (height, width, 3) pixels as a PNG."""
    data: bytes = cv2.imencode(".png", pixels)[1].tobytes()
    return data


def _size(pixels: NDArray[np.uint8], short_side: int) -> tuple[int, int]:
    height, width = pixels.shape[:2]
    scale = short_side / min(height, width)
    return max(round(width * scale), short_side), max(round(height * scale), short_side)
