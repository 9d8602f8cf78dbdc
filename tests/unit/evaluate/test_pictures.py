"""Pictures are drawn of each checkpoint once, and kept with the run."""

import base64
import io

import numpy as np
import torch
from PIL import Image

from gmml_cluster.evaluate.pictures import LOSSLESS_SIDE, SIDE, encoded


def decoded(url):
    head, _, data = url.partition(",")
    return head, np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_small_images_are_kept_to_the_bit_and_large_ones_are_shrunk():
    colours = torch.rand(LOSSLESS_SIDE, LOSSLESS_SIDE, 3, generator=torch.Generator().manual_seed(0))
    head, found = decoded(encoded(colours))
    assert head == "data:image/png;base64"
    assert np.array_equal(found, (colours.numpy() * 255).round().astype(np.uint8))
    head, found = decoded(encoded(torch.full((224, 224, 3), 0.5)))
    assert head == "data:image/jpeg;base64"
    assert found.shape == (SIDE, SIDE, 3)
    assert abs(int(found.mean()) - 128) <= 1
