"""Crop boxes at seed 7 and views of boxes, by checksums: a change gives every run other images."""

import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from gmml_cluster.data.reader.crop import crop_boxes, draw_crops, resize
from gmml_cluster.spec.augment import Crop

SIZES = [(480, 640), (64, 64), (32, 32), (1066, 230), (7, 2000), (1, 1), (333, 500)]
GOLDEN = [
    (Crop(), 2499593466),
    (Crop(scale=(0.2, 1.0)), 3196910041),
    (Crop(scale=(0.9, 1.0), ratio=(0.5, 0.6)), 2119220301),
    (None, 2431519748),
]
VIEWS_CRC = 1752072432


@pytest.mark.parametrize(("crop", "crc"), GOLDEN)
def test_crop_boxes_stay_what_they_were(crop, crc):
    numbers = np.array([*range(1500), *range(2**40, 2**40 + 300)])
    sizes = np.array([SIZES[i % len(SIZES)] for i in range(len(numbers))])
    boxes = crop_boxes(draw_crops(7, numbers, 2, crop), sizes[:, 0], sizes[:, 1])
    assert zlib.crc32(boxes.astype("<i8").tobytes()) == crc


def views_crc():
    """CRC32 of views of a wavy image: enlarged, shrunk, by areas, and by a rule of its own for each axis."""
    row, column = np.arange(300)[:, None], np.arange(260)[None]
    image = np.stack([row * column % 251, row * 3 + column * 5, (row - column) ** 2], -1).astype(np.uint8)
    found = 0
    for size, box in ((64, (3, 5, 41, 50)), (96, (10, 0, 170, 130)), (32, (0, 7, 290, 240)), (48, (1, 2, 60, 200))):
        view = np.empty((3, size, size), np.uint8)
        resize(image, box, view)
        found = zlib.crc32(view.transpose(1, 2, 0).tobytes(), found)
    return found


def test_views_stay_what_they_were_in_every_thread_and_on_every_processor():
    with ThreadPoolExecutor(1) as pool:
        assert (views_crc(), pool.submit(views_crc).result()) == (VIEWS_CRC, VIEWS_CRC)
