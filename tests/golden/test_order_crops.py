"""Crop boxes at seed 7, by a checksum: a change gives every run other images."""

import zlib

import numpy as np
import pytest

from gmml_cluster.data.reader.crop import crop_boxes, draw_crops
from gmml_cluster.spec.augment import Crop

SIZES = [(480, 640), (64, 64), (32, 32), (1066, 230), (7, 2000), (1, 1), (333, 500)]
GOLDEN = [
    (Crop(), 2499593466),
    (Crop(scale=(0.2, 1.0)), 3196910041),
    (Crop(scale=(0.9, 1.0), ratio=(0.5, 0.6)), 2119220301),
    (None, 2431519748),
]


@pytest.mark.parametrize(("crop", "crc"), GOLDEN)
def test_crop_boxes_stay_what_they_were(crop, crc):
    numbers = np.array([*range(1500), *range(2**40, 2**40 + 300)])
    sizes = np.array([SIZES[i % len(SIZES)] for i in range(len(numbers))])
    boxes = crop_boxes(draw_crops(7, numbers, 2, crop), sizes[:, 0], sizes[:, 1])
    assert zlib.crc32(boxes.astype("<i8").tobytes()) == crc
