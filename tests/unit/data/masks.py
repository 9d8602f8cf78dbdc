"""Small corpora of images with masks."""

import numpy as np

from tests.unit.data.conftest import png, write_tar


def picture(y, *, height=12, width=16):
    """An image whose red channel is its mask's value times 20, and that mask: a rectangle of class 1 + y % 3 on 0."""
    rng = np.random.default_rng(y)
    mask = np.zeros((height, width), np.uint8)
    top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
    mask[top : top + height // 2, left : left + width // 2] = 1 + y % 3
    image = np.stack([20 * mask, np.full_like(mask, y), np.zeros_like(mask)], 2)
    return image, mask


def masked_shards(folder, count, *, replace=None, shards=2):
    """Shards of `picture`s; `replace` has other members of the mask for some of them, None for no mask at all."""
    folder.mkdir()
    for shard in range(shards):
        members = []
        for y in range(shard, count, shards):
            image, mask = picture(y)
            members.append((f"{y:03d}.png", png(image)))
            found = (replace or {}).get(y, png(mask))
            members += [] if found is None else [(f"{y:03d}.mask.png", found)]
        write_tar(folder / f"{shard}.tar", members)
    return folder
