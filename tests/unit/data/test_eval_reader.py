"""Whole corpora for evaluation, and the lines of `gmml order`."""

import numpy as np
import pytest

from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.eval_reader import Samples, order_lines
from gmml_cluster.data.reader.order import Order
from gmml_cluster.errors import DataError, SpecError
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec
from tests.unit.data.conftest import DATA, needs_photos, write_tar


def test_corpus_is_read_in_index_order_with_its_classes(digit_shards, digits):
    samples = Samples(str(digit_shards))
    assert samples.names(range(len(samples))) == [f"d{y:04d}.png" for y in range(23)]
    assert samples.labels().tolist() == [label for _, label in digits[:23]]
    for image, (grey, _) in zip(samples.images(range(23)), digits[:23], strict=True):
        assert image.shape == (8, 8, 3)
        assert np.array_equal(image[..., 1], grey)


def test_images_come_in_the_order_they_are_asked_for(digit_shards, digits):
    found = Samples(str(digit_shards)).images([20, 3, 7])
    assert [image[..., 1].tolist() for image in found] == [digits[index][0].tolist() for index in (20, 3, 7)]


@needs_photos
def test_photographs_are_read_with_minus_one_where_they_have_no_class():
    samples = Samples(str(DATA / "photos"))
    assert len(samples.images(range(272))) == len(samples) == len(set(samples.names(range(272)))) == 272
    assert (samples.labels() == -1).sum() > 0
    assert (samples.labels() >= 0).sum() >= 264


def test_undecodable_image_is_named_and_never_left_out(tmp_path):
    write_tar(tmp_path / "s.tar", [("a.png", b"no image")])
    with pytest.raises(DataError, match=r"s\.tar, member a\.png: no image"):
        Samples(str(tmp_path / "s.tar")).images([0])


@pytest.fixture
def pinned(digit_shards):
    return pin([CorpusSpec(url=str(digit_shards))])


@pytest.fixture
def layout(pinned):
    return make_layout(seed=7, batch=32, group=2, lanes=8, window=4, spans=2, corpora=pinned.shapes)


def test_lines_agree_with_the_order_and_the_pin(layout, pinned):
    numbers = [5, 0, 1000, 31]
    locations = Order(layout).locate(np.array(numbers))
    lines = list(order_lines(layout, pinned, numbers, ranks=3, micro=2))
    assert [line["n"] for line in lines] == numbers
    for line, epoch, y in zip(lines, locations.epoch, locations.y, strict=True):
        located = pinned.locate(0, int(y))
        assert (line["corpus"], line["epoch"]) == (0, epoch)
        assert (line["shard"], line["index"], line["member"]) == (located.shard, located.index, located.member)


@pytest.mark.parametrize("ranks", range(1, 9))
def test_lines_name_the_rank_and_micro_batch_that_draw_the_sample(layout, pinned, ranks):
    lines = list(order_lines(layout, pinned, range(64), ranks=ranks, micro=4))
    drawn = {line["n"]: (line["rank"], line["micro_batch"]) for line in lines}
    for step in range(2):
        for rank in range(ranks):
            for at, n in enumerate(Order(layout).rank_numbers(step, ranks, rank).tolist()):
                assert drawn.pop(n) == (rank, at // 4)
    assert not drawn


def test_lines_need_a_lane_for_each_rank(layout, pinned):
    with pytest.raises(SpecError, match="9 ranks for 8 lanes"):
        list(order_lines(layout, pinned, [0], ranks=9, micro=2))
