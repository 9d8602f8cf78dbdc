"""The stream: the same sample number is the same image and crop, whatever ranks, threads and first step."""

import io
import os
import resource
import threading

import numpy as np
import pytest
from PIL import Image

from gmml_cluster.data.corpus import listing
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader import fetch, reads, stream
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

    def stream(self, ranks=1, rank=0, first_step=0, threads=2, read_ahead_bytes=2**28):
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
            read_ahead_bytes=read_ahead_bytes,
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
    locations = Order(run.layout).locate(np.arange(96))
    for n, image in run.images(6).items():
        grey = digits[int(locations.y[n])][0]
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
    locations = Order(run.layout).locate(np.arange(96))
    stands_in = {3: 5, 4: 5, 23: 0}
    for n, image in run.images(6).items():
        y = int(locations.y[n])
        assert np.array_equal(image[0, 0], digits[stands_in.get(y, y)][0])
    for ranks in (1, 3):
        met = [
            sample for rank in range(ranks) for batch in run.batches(6, ranks=ranks, rank=rank) for sample in batch.bad
        ]
        assert sorted(sample.y for sample in met) == [3, 4, 23]


def test_replacement_keeps_the_draws_of_its_number(tmp_path, digits):
    bad = Run(spoilt(tmp_path / "bad", digits, {3}))
    good = Run(spoilt(tmp_path / "good", digits, set()))
    locations = Order(bad.layout).locate(np.arange(48))
    n = int(np.flatnonzero(locations.y == 3)[0])
    members = [(f"d{y:03d}.png", png(digits[4 if y == 3 else y][0])) for y in range(24)]
    write_tar(tmp_path / "good" / "s.tar", members)
    good = Run(tmp_path / "good")
    assert np.array_equal(bad.images(3)[n], good.images(3)[n])


def test_corpus_of_bad_samples_alone_ends_the_run(tmp_path, digits):
    run = Run(spoilt(tmp_path / "bad", digits, set(range(4)), count=4))
    with pytest.raises(DataError, match="one of 4 among the corpus' 4; 3 are tolerated"):
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
    monkeypatch.setattr(stream.np, "empty", lambda *given, **named: made.append(given) or np.zeros(*given, **named))
    before = threading.active_count()
    opened = Run(digit_shards).stream()
    opened.next()
    assert len([given for given in made if given[0] == (16, 2, 3, 8, 8)]) == stream.STEPS_AHEAD + 1
    opened.close()
    assert threading.active_count() == before


def test_steps_planned_ahead_are_bounded_where_a_step_has_few_samples(digit_shards, monkeypatch):
    planned, enough = [], threading.Event()
    inner = Order.rank_numbers

    def rank_numbers(order, step, ranks, rank):
        planned.append(step)
        if step >= stream._MOST_STEPS_AHEAD - 1:
            enough.set()
        return inner(order, step, ranks, rank)

    monkeypatch.setattr(Order, "rank_numbers", rank_numbers)
    opened = Run(digit_shards).stream()
    assert enough.wait(240)
    opened._planner.join(0.5)  # time for one step more, if it were planned
    assert max(planned) < stream._MOST_STEPS_AHEAD + 16
    opened.close()


def test_large_images_are_cropped_as_pillow_would(tmp_path):
    folder = tmp_path / "large"
    folder.mkdir()
    ramp = np.linspace(0, 255, 90).astype(np.uint8)
    image = np.stack(np.broadcast_arrays(ramp[:60, None], ramp[None], 128), -1).astype(np.uint8)
    write_tar(folder / "s.tar", [(f"{y}.png", png(image)) for y in range(16)])
    found = Run(folder, views=1, augment="none", image_size=30).images(1)[0][0]
    expected = np.asarray(Image.fromarray(image[:, 15:75]).resize((30, 30), Image.Resampling.BOX))
    assert np.abs(found.transpose(1, 2, 0).astype(int) - expected).max() <= 1


class Gate:
    """Reads of a store that wait until they are let through; counts how many wait at once."""

    def __init__(self, store, monkeypatch):
        self.open, self.waiting, self.most, self.names = threading.Event(), 0, 0, []
        self.changed, self.inner, self.held = threading.Condition(), store.get, lambda name, start: True
        monkeypatch.setattr(store, "get", self.get, raising=False)

    def get(self, name, start=0, length=None):
        if name.endswith(".tar") and self.held(name, start):
            with self.changed:
                self.waiting += 1
                self.names.append((name, start))
                self.most = max(self.most, self.waiting)
                self.changed.notify_all()
            assert self.open.wait(240)
            with self.changed:
                self.waiting -= 1
        return self.inner(name, start, length)

    def await_waiting(self, count):
        with self.changed:
            assert self.changed.wait_for(lambda: self.waiting >= count, 30), self.waiting


@pytest.fixture
def apart(monkeypatch):
    """Samples are read apart, as large ones are."""
    monkeypatch.setattr(reads, "GAP_BYTES", -1)
    monkeypatch.setattr(stream, "_LEAST_CHUNK_SAMPLES", 4)
    monkeypatch.setattr(stream, "_LEAST_CHUNK_BYTES", 0)


def test_requests_of_several_steps_are_in_flight_at_once(digit_shards, bucket, monkeypatch, apart):
    run = Run("s3://bucket/digits")
    expected = run.images(4)
    gate = Gate(bucket, monkeypatch)
    opened = run.stream(read_ahead_bytes=2**20)
    gate.await_waiting(40)  # a step has 16
    gate.open.set()
    found = [opened.next() for _ in range(4)]
    opened.close()
    assert_same(
        {n: image for batch in found for n, image in zip(batch.numbers.tolist(), batch.images, strict=True)}, expected
    )


def test_a_slow_request_delays_only_the_chunks_that_need_it(digit_shards, bucket, monkeypatch, apart):
    run = Run("s3://bucket/digits")
    gate = Gate(bucket, monkeypatch)
    slow = Wanted(0, int(Order(run.layout).locate(np.array([0])).y[0]))
    located = run.pin.locate(0, slow.y)
    held = [(located.shard.rpartition("/")[2], located.offset)]
    gate.held = lambda name, start: (name, start) in held and not held.clear()
    opened = run.stream(read_ahead_bytes=2**20)
    gate.await_waiting(1)
    parts = [part for step in list(opened._steps)[:3] for part in step.parts]
    free = [part for part in parts if slow not in part.chunk.pieces.samples]
    assert len(parts) == 12
    assert len(free) >= 9
    for part in free:
        part.filled.result(30)
    assert not parts[0].filled.done()
    gate.open.set()
    assert opened.next().step == 0
    opened.close()


def test_bytes_ahead_are_bounded(digit_shards, bucket, monkeypatch, apart):
    run = Run("s3://bucket/digits")
    gate = Gate(bucket, monkeypatch)
    expected = None
    for limit in (3000, 2**20):
        gate.open.clear()
        gate.names.clear()
        opened = run.stream(read_ahead_bytes=limit)
        gate.await_waiting(16 if limit > 3000 else 4)
        held = opened._fetcher._held_bytes
        gate.open.set()
        batches = [opened.next() for _ in range(6)]
        assert held <= limit
        opened.close()
        found = {n: image for batch in batches for n, image in zip(batch.numbers.tolist(), batch.images, strict=True)}
        expected = expected or found
        assert_same(found, expected)


def test_close_ends_all_threads_while_requests_are_in_flight_and_after_errors(digit_shards, bucket, monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.0)
    run = Run("s3://bucket/digits")
    run.images(1)
    before = set(threading.enumerate())
    gate = Gate(bucket, monkeypatch)
    opened = run.stream()
    gate.await_waiting(1)
    closing = threading.Thread(target=opened.close)
    closing.start()
    gate.open.set()
    closing.join(240)
    bucket.spoil = 10**6
    failing = run.stream()
    with pytest.raises(StorageError):
        failing.next()
    failing.close()
    assert set(threading.enumerate()) <= before


def test_an_index_that_cannot_be_read_surfaces_in_next_and_stays(digit_shards, bucket, monkeypatch):
    run = Run("s3://bucket/digits")

    def broken(shard):
        raise StorageError(f"{shard.file.url}: no answer")

    monkeypatch.setattr(run.pin, "index_of", broken)
    opened = run.stream()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"train-00.\.tar: no answer"):
            opened.next()
    opened.close()


def test_damaged_jpegs_are_counted_and_are_bad_where_the_corpus_refuses_them(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    held = io.BytesIO()
    Image.fromarray(noise).save(held, "JPEG", quality=95)
    sound = held.getvalue()
    damaged = sound[:4000] + bytes(200) + sound[4200:]
    folder = tmp_path / "jpeg"
    folder.mkdir()
    write_tar(folder / "s.tar", [(f"{y:02d}.jpg", damaged if y == 5 else sound) for y in range(16)])
    batch = Run(folder).batches(1)[0]
    assert (batch.damaged, batch.bad) == (1, ())
    strict = [{"url": str(folder), "refuse_damaged": True}]
    batch = Run(folder, corpora=strict).batches(1)[0]
    assert (batch.damaged, batch.bad) == (0, (Wanted(0, 5),))


def test_a_corpus_of_more_shards_than_open_files_is_read(tmp_path, digits):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(200):
        write_tar(folder / f"s-{number:04d}.tar", [("a.png", png(digits[number][0])), ("b.png", png(digits[0][0]))])
    for shard in listing.list_shards(str(folder)):
        index_checked(shard, None)
    run = Run(folder)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    now = len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (now + 60, limits[1]))
    try:
        batches = run.batches(26)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert len(batches) == 26
