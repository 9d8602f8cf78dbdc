"""A mask is cropped, mirrored and replaced together with its image."""

import logging

import numpy as np
import pytest
import torch

from gmml_cluster.data.augment import flip_masks, prepare
from gmml_cluster.data.corpus.index import build
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.data.reader.crop import resize_mask
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import DataError
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.augment import Augment, Crop, Normalise
from gmml_cluster.spec.job import CorpusSpec, Data
from tests.unit.data.conftest import png
from tests.unit.data.masks import masked_shards, picture

COUNT = 20
TABLE = [*range(4), *[-1] * 251, 255]


def batches(folder, steps=5, *, augment="none", image_size=8, **options):
    data = Data.model_validate(
        {"corpora": [{"url": str(folder)}], "image_size": image_size, "augment": augment, "max_bad": 0.9}
    )
    pinned = pin([CorpusSpec(url=str(folder))])
    layout = make_layout(seed=7, batch=8, group=2, lanes=2, window=4, spans=2, corpora=pinned.shapes)
    given = {"ranks": 1, "rank": 0, "first_step": 0, **options}
    stream = Stream(Order(layout), pinned, data, seed=7, views=1, mask_table=TABLE, **given)
    try:
        return [stream.next() for _ in range(steps)]
    finally:
        stream.close()


def test_a_mask_shows_what_its_cropped_and_mirrored_image_shows(tmp_path):
    augment = Augment(crop=Crop(scale=(0.3, 1.0)), flip=True)
    for batch in batches(masked_shards(tmp_path / "c", COUNT), augment=augment.model_dump()):
        numbers = torch.from_numpy(batch.numbers)
        plain = Normalise(mean=(0, 0, 0), std=(1, 1, 1))
        images = prepare(torch.from_numpy(batch.images), numbers, seed=7, augment=augment, normalise=plain)
        masks = flip_masks(torch.from_numpy(batch.masks), numbers, seed=7, augment=augment)
        red = images[:, 0, 0] * 255 / 20
        # bicubic values lie between classes only beside their edges; views are 8 wide, so most pixels are elsewhere
        agree = ((red - masks).abs() < 0.5).float().mean()
        assert agree > 0.9
        assert ((red.flip(2) - masks).abs() < 0.5).float().mean() < agree


@pytest.mark.parametrize(("height", "width", "size"), [(7, 9, 4), (3, 2, 8), (5, 5, 5), (1, 30, 4)])
def test_each_pixel_of_a_view_has_the_class_at_its_centre(height, width, size):
    mask = np.arange(12 * 31, dtype=np.int64).reshape(12, 31).astype(np.uint8)
    view = np.empty((size, size), np.uint8)
    resize_mask(mask, np.array([2, 1, height, width]), view)
    rows, columns = (np.floor((np.arange(size) + 0.5) * side / size).astype(int) for side in (height, width))
    assert np.array_equal(view, mask[2:, 1:][rows][:, columns])


def test_masks_are_the_same_over_ranks_and_threads(tmp_path):
    folder = masked_shards(tmp_path / "c", COUNT)
    whole = {n: m for b in batches(folder) for n, m in zip(b.numbers.tolist(), b.masks, strict=True)}
    parts = [b for rank in range(2) for b in batches(folder, 3, ranks=2, rank=rank, first_step=2, threads=3)]
    found = {n: m for b in parts for n, m in zip(b.numbers.tolist(), b.masks, strict=True)}
    assert len(found) == 24
    assert all(np.array_equal(whole[n], mask) for n, mask in found.items())


BAD = {
    3: (png(np.zeros((12, 15), np.uint8)), "its mask has 15 x 12 pixels, the image 16 x 12"),
    4: (png(np.full((12, 16), 4, np.uint8)), "its mask has the value 4, which is no class"),
    5: (png(np.zeros((12, 16, 3), np.uint8)), "its mask is a PNG of mode RGB"),
    9: (b"no mask", "its mask: UnidentifiedImageError"),
    11: (None, "no mask beside it"),
}


def test_a_bad_mask_makes_a_bad_sample_that_is_named_and_replaced(tmp_path, caplog):
    folder = masked_shards(tmp_path / "c", COUNT, replace={y: data for y, (data, _) in BAD.items()})
    with caplog.at_level(logging.WARNING):
        found = batches(folder)
    for batch in found:
        for image, mask in zip(batch.images[:, 0], batch.masks, strict=True):
            y = int(image[1].min())  # the green channel is the number
            assert y not in BAD
            assert np.array_equal(mask, central(picture(y)[1]))
    assert sum(len(batch.bad) for batch in found) == len(BAD)
    for y, (_, message) in BAD.items():
        assert any(f"{y:03d}.png: a bad sample: {message}" in record.message for record in caplog.records)


def central(mask):
    view = np.empty((8, 8), np.uint8)
    resize_mask(mask, np.array([0, 2, 12, 12]), view)
    return view


def test_an_index_has_masks_with_checksums_and_counts_no_member_besides(tmp_path):
    folder = masked_shards(tmp_path / "c", COUNT, replace={5: None})
    shard = list_shards(str(folder))[1]
    found = build(shard, checked=True)
    assert (found.header.samples, found.header.masks, found.header.passed_over) == (10, 9, ())
    assert (found.masks["length"] == 0).nonzero()[0].tolist() == [2]
    plain = build(shard, checked=False)
    assert plain.header.digest == found.header.digest
    assert np.array_equal(plain.masks["offset"], found.masks["offset"])


def test_a_damaged_mask_is_noticed_where_it_is_read(tmp_path):
    folder = masked_shards(tmp_path / "c", 4, shards=1)
    (shard,) = list_shards(str(folder))
    made = build(shard, checked=True)
    (folder / "0.tar.index").write_bytes(made.to_bytes())
    data = bytearray((folder / "0.tar").read_bytes())
    data[int(made.masks["offset"][2]) + 30] ^= 1
    (folder / "0.tar").write_bytes(data)
    samples, table = Samples(str(folder)), np.array(TABLE, np.int16)
    assert [mask.max() for _, mask in samples.pairs([0, 1], table)] == [1, 2]
    with pytest.raises(Exception, match="bytes disagree with the index"):
        samples.pairs([2], table)


def test_an_evaluation_leaves_no_bad_mask_out(tmp_path):
    samples = Samples(str(masked_shards(tmp_path / "c", 6, replace={3: BAD[3][0], 4: None})))
    assert samples.masked().tolist() == [True, True, False, True, True, True]
    with pytest.raises(DataError, match=r"003\.png: unusable mask \(its mask has 15 x 12 pixels, the image 16 x 12\)"):
        samples.pairs([4], np.array(TABLE, np.int16))
