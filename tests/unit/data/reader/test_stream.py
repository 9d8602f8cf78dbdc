"""The stream: the same sample number is the same image and crop, whatever ranks, threads and first step."""

import threading

import numpy as np
import pytest
from PIL import Image

from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader import fetch, stream
from gmml_cluster.data.reader.fetch import Wanted
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream, cache_bytes
from gmml_cluster.errors import DataError, ShardChanged, StorageError
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data
from tests.unit.data.conftest import png, write_tar


def data_of(folder, **fields):
    fields = {"image_size": 8, "augment": "gmml", **fields}
    return Data.model_validate({"corpora": [{"url": str(folder)}], **fields})


class Run:
    """A small run over one corpus: 16 images a step, 4 lanes of groups of 2."""

    def __init__(self, folder, views=2, **fields):
        self.data, self.views = data_of(folder, **fields), views
        self.pin = pin([CorpusSpec(url=str(folder))])
        self.layout = make_layout(seed=7, batch=16, group=2, lanes=4, window=4, spans=2, corpora=self.pin.shapes)

    def stream(self, ranks=1, rank=0, first_step=0, threads=2):
        return Stream(
            Order(self.layout),
            self.pin,
            self.data,
            seed=7,
            views=self.views,
            ranks=ranks,
            rank=rank,
            first_step=first_step,
            threads=threads,
        )

    def batches(self, steps, **options):
        opened = self.stream(**options)
        try:
            return [opened.next() for _ in range(steps)]
        finally:
            opened.close()

    def images(self, steps, ranks=1, first_step=0, threads=2):
        """Images by sample number, over all ranks."""
        found = {}
        for rank in range(ranks):
            for batch in self.batches(steps, ranks=ranks, rank=rank, first_step=first_step, threads=threads):
                found.update(zip(batch.numbers.tolist(), batch.images, strict=True))
        return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    for n, image in one.items():
        assert np.array_equal(image, other[n]), n


def test_batches_come_in_order_with_whole_groups_upwards(digit_shards):
    for step, batch in enumerate(Run(digit_shards).batches(5, first_step=3), start=3):
        assert batch.step == step
        assert batch.numbers.tolist() == list(range(step * 16, step * 16 + 16))
        assert batch.images.shape == (16, 2, 3, 8, 8)
        assert batch.images.dtype == np.uint8
        assert batch.wait_s >= 0
        assert batch.bad == ()


@pytest.mark.parametrize("ranks", [2, 3, 4])
def test_every_number_of_ranks_sees_the_same_images(digit_shards, ranks):
    run = Run(digit_shards)
    assert_same(run.images(4), run.images(4, ranks=ranks))


def test_threads_and_first_step_change_nothing(digit_shards):
    run = Run(digit_shards)
    whole = run.images(6, threads=1)
    assert_same(whole, run.images(6, threads=4))
    assert_same({n: image for n, image in whole.items() if n >= 64}, run.images(2, first_step=4))


def test_without_crop_a_sample_is_the_image_that_the_order_names(digit_shards, digits):
    run = Run(digit_shards, views=1, augment="none")
    places = Order(run.layout).locate(np.arange(96))
    for n, image in run.images(6).items():
        grey = digits[int(places.y[n])][0]
        assert np.array_equal(image[0], np.stack([grey] * 3))


def test_views_are_different_crops(digit_shards):
    images = np.stack(list(Run(digit_shards).images(2).values()))
    assert not np.array_equal(images[:, 0], images[:, 1])


def test_a_bucket_and_a_folder_give_the_same_images(digit_shards, bucket):
    run = Run("s3://bucket/digits")
    assert cache_bytes(run.pin, run.layout, 1, 2**28) == 2**27
    assert_same(Run(digit_shards).images(4), run.images(4))


def spoilt(folder, digits, bad, count=24):
    """One shard of digits, some of which are no images."""
    folder.mkdir()
    members = [(f"d{y:03d}.png", b"no image" if y in bad else png(digits[y][0])) for y in range(count)]
    write_tar(folder / "s.tar", members)
    return folder


def test_bad_sample_is_replaced_by_the_next_good_one_and_counted_once(tmp_path, digits):
    bad = {3, 4, 23}
    run = Run(spoilt(tmp_path / "bad", digits, bad), views=1, augment="none")
    places = Order(run.layout).locate(np.arange(96))
    stands_in = {3: 5, 4: 5, 23: 0}
    for n, image in run.images(6).items():
        y = int(places.y[n])
        assert np.array_equal(image[0, 0], digits[stands_in.get(y, y)][0])
    for ranks in (1, 3):
        met = [
            sample for rank in range(ranks) for batch in run.batches(6, ranks=ranks, rank=rank) for sample in batch.bad
        ]
        assert sorted(sample.y for sample in met) == [3, 4, 23]


def test_replacement_keeps_the_draws_of_its_number(tmp_path, digits):
    bad = Run(spoilt(tmp_path / "bad", digits, {3}))
    good = Run(spoilt(tmp_path / "good", digits, set()))
    places = Order(bad.layout).locate(np.arange(48))
    n = int(np.flatnonzero(places.y == 3)[0])
    members = [(f"d{y:03d}.png", png(digits[4 if y == 3 else y][0])) for y in range(24)]
    write_tar(tmp_path / "good" / "s.tar", members)
    good = Run(tmp_path / "good")
    assert np.array_equal(bad.images(3)[n], good.images(3)[n])


def test_corpus_of_bad_samples_alone_ends_the_run(tmp_path, digits):
    run = Run(spoilt(tmp_path / "bad", digits, set(range(4)), count=4))
    with pytest.raises(DataError, match="one of 4 among the corpus' 4; 3 are borne"):
        run.batches(1)


def test_shard_without_crcs_that_changed_is_named_and_never_a_corpus_of_bad_samples(digit_shards):
    run = Run(digit_shards)
    run.pin.locate(0, 5)  # its index is loaded, its shard was the pinned one then
    shard = digit_shards / "train-002.tar"
    shard.write_bytes(bytes(shard.stat().st_size))
    opened = run.stream()
    with pytest.raises(ShardChanged, match=r"train-002\.tar: .* when the run began"):
        [opened.next() for _ in range(8)]
    opened.close()


def test_image_of_too_many_pixels_is_a_bad_sample(tmp_path, digits):
    folder = spoilt(tmp_path / "large", digits, set(), count=23)
    large = png(np.zeros((50, 50), np.uint8))
    write_tar(folder / "t.tar", [("large.png", large)])
    met = [sample for batch in Run(folder, max_pixels=2000).batches(4) for sample in batch.bad]
    assert met == [Wanted(0, 23)]


def test_fault_in_a_thread_surfaces_in_next_and_stays(digit_shards, bucket, monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.0)
    run = Run("s3://bucket/digits")
    run.pin.locate(0, 0), run.pin.locate(0, 5), run.pin.locate(0, 22)
    bucket.spoil = 10**6
    opened = run.stream()
    for _ in range(2):
        with pytest.raises(
            StorageError, match=r"s3://bucket/digits/train-00.\.tar, member d00..\.png: the bytes disagree"
        ):
            opened.next()
    opened.close()


def test_close_joins_the_threads_and_reading_ahead_is_bounded(digit_shards, monkeypatch):
    made = []
    monkeypatch.setattr(stream.np, "empty", lambda *given: made.append(given) or np.zeros(*given))
    before = threading.active_count()
    opened = Run(digit_shards).stream()
    opened.next()
    assert len([given for given in made if given[0] == (16, 2, 3, 8, 8)]) == stream.STEPS_AHEAD + 1
    opened.close()
    assert threading.active_count() == before


def test_large_images_are_cropped_as_pillow_would(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    ramp = np.linspace(0, 255, 90).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:60, None], ramp[None], 128), -1).astype(np.uint8)
    write_tar(folder / "s.tar", [(f"{y}.png", png(image)) for y in range(16)])
    found = Run(folder, views=1, augment="none", image_size=30).images(1)[0][0]
    expected = np.asarray(Image.fromarray(image[:, 15:75]).resize((30, 30), Image.Resampling.BOX))
    assert np.abs(found.transpose(1, 2, 0).astype(int) - expected).max() <= 1
