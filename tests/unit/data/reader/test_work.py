"""What the images of a run cost: files opened, reads, decodes; and that saving them changes no pixel."""

import errno
import io
import os
import threading
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from gmml_cluster.data.reader import decode as decoding
from gmml_cluster.data.reader import fetch, reads, views
from gmml_cluster.data.reader.crop import crop_boxes, draw_crops, resize
from gmml_cluster.data.reader.decode import decode
from gmml_cluster.data.reader.fetch import Chunk, Fetcher
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.reads import OpenShards, most_open_shards
from gmml_cluster.data.reader.stream import chunk_samples
from gmml_cluster.data.reader.views import Views
from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.store.posix import OpenFile, PosixStore
from gmml_cluster.store.protocol import NotFound
from tests.unit.data.conftest import png, write_tar
from tests.unit.data.masks import masked_shards
from tests.unit.data.reader.test_stream import Run


def planned(run, **options):
    """The parts of the first steps, as a stream plans them."""
    opened = run.stream(**options)
    opened.close()
    return [part for step in opened._plan(0) for part in step.parts]


def counted(monkeypatch, owner, name):
    """Calls of a function, which still does what it does."""
    calls, inner = [], getattr(owner, name)

    def call(*given, **named):
        calls.append(given)
        return inner(*given, **named)

    monkeypatch.setattr(owner, name, call)
    return calls


def test_all_views_of_a_sample_come_of_one_decode(digit_shards, monkeypatch):
    run = Run(digit_shards, views=3)
    part, fetcher = planned(run)[0], Fetcher(run.pin)
    encoded = fetcher.fetch(part.chunk.pieces.samples)
    decoded = counted(monkeypatch, views, "decode_noting")
    images = np.empty((len(encoded), 3, 3, 8, 8), np.uint8)
    Views(run.pin, run.data, fetcher).fill(part, encoded, images)
    assert len(decoded) == len(encoded) == 16
    assert not np.array_equal(images[:, 0], images[:, 1])
    fetcher.close()


def test_a_mask_costs_one_decode_more_and_none_of_the_image(tmp_path, monkeypatch):
    run = Run(masked_shards(tmp_path / "c", 20), views=1)
    part, fetcher = planned(run)[0], Fetcher(run.pin)
    samples = part.chunk.pieces.samples
    encoded = [*fetcher.fetch(samples), *fetcher.fetch(samples, masks=True)]
    images, masks = (counted(monkeypatch, views, name) for name in ("decode_noting", "decode_mask"))
    of_views, of_masks = np.empty((16, 1, 3, 8, 8), np.uint8), np.empty((16, 8, 8), np.uint8)
    Views(run.pin, run.data, fetcher, np.arange(256, dtype=np.int16)).fill(part, encoded, of_views, of_masks)
    assert (len(images), len(masks)) == (16, 16)
    fetcher.close()


def test_samples_of_many_steps_are_read_together_in_few_tasks(digit_shards, monkeypatch):
    run = Run(digit_shards)
    chunks = [part.chunk for part in planned(run)]
    fetcher = Fetcher(run.pin)
    read, tasks = counted(monkeypatch, OpenShards, "read"), counted(monkeypatch, fetcher._pool, "submit")
    assert fetcher.begin(chunks)
    assert sum(len(chunk.fetched.result(30)) for chunk in chunks) == 256
    assert sorted(os.path.basename(url) for _, url, _, _ in read) == ["train-000.tar", "train-002.tar", "train-003.tar"]
    assert sum(length for *_, length in read) < sum(file.size for file in run.pin.files)
    assert len(tasks) == 1
    fetcher.close()


def test_a_task_costs_two_locks_however_many_reads_it_brings(digit_shards, monkeypatch):
    """And a chunk one when its bytes are there: a lock a read takes longer than the read of a small image."""
    monkeypatch.setattr(reads, "GAP_BYTES", 0)
    run = Run(digit_shards)
    chunks = [part.chunk for part in planned(run)]
    fetcher = Fetcher(run.pin, reads=1)
    read, locked = counted(monkeypatch, OpenShards, "read"), counted(monkeypatch, threading.Condition, "__enter__")
    tasks = counted(monkeypatch, fetcher._pool, "submit")
    assert fetcher.begin(chunks)
    assert all(chunk.fetched.result(30) for chunk in chunks)
    fetcher.close()
    assert len(read) > 2 * len(tasks)
    own = sum(condition is fetcher._changed for (condition,) in locked)
    assert own == 3 + 2 * len(tasks) + len(chunks)  # three: `begin`, `_start`, `close`


def test_a_read_that_fails_fails_only_the_chunks_that_need_it(digit_shards, monkeypatch):
    fetcher, inner = Fetcher(Run(digit_shards).pin, reads=1), OpenShards.read
    failed, whole = (Chunk(fetcher.locate(np.zeros(2, np.int64), np.array(ys))) for ys in ([0, 1], [21, 22]))

    def failing(shards, url, *given):
        if url == failed.pieces.shards[0].file.url:
            raise StorageError(Fault(url, "out of reach"))
        return inner(shards, url, *given)

    monkeypatch.setattr(OpenShards, "read", failing)
    tasks = counted(monkeypatch, fetcher._pool, "submit")
    assert fetcher.begin([failed, whole])
    with pytest.raises(StorageError, match="out of reach"):
        failed.fetched.result(30)
    assert len(whole.fetched.result(30)) == 2
    assert len(tasks) == 1
    fetcher.close()


@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_a_header_is_read_once_and_boxes_of_a_chunk_are_one_call(tmp_path, form, monkeypatch):
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (20, 24, 3), dtype=np.uint8))
    folder = tmp_path / "c"
    folder.mkdir()
    write_tar(folder / "s.tar", [(f"{y:02d}.{form.lower()}", written(noise, form)) for y in range(32)])
    run = Run(folder, views=2)
    part, fetcher = planned(run)[0], Fetcher(run.pin)
    encoded = fetcher.fetch(part.chunk.pieces.samples)
    headers = counted(monkeypatch, decoding, "_jpeg_header" if form == "JPEG" else "_plain_png")
    boxes = counted(monkeypatch, views, "crop_boxes")
    Views(run.pin, run.data, fetcher).fill(part, encoded, np.empty((len(encoded), 2, 3, 8, 8), np.uint8))
    assert (len(headers), len(boxes)) == (len(encoded), 1)
    fetcher.close()


@pytest.mark.parametrize(
    ("sample_bytes", "samples", "threads", "expected"),
    [
        (110_000, 128, 2, 32),  # photographs: each thread has two chunks of a step
        (110_000, 1024, 2, 64),
        (110_000, 8, 4, 16),
        (2_500, 128, 1, 104),  # small images: as many as a quarter of a MiB has
        (2_500, 128, 2, 64),  # but all threads have some of each step
        (2_500, 4096, 8, 104),
        (100, 4096, 2, 128),
    ],
)
def test_chunks_of_small_images_have_more_samples(sample_bytes, samples, threads, expected):
    shards = SimpleNamespace(sizes=np.array([sample_bytes * 10]), samples=np.array([10]))
    pinned = SimpleNamespace(corpora=[SimpleNamespace(shards=shards)])
    assert chunk_samples(pinned, samples, threads) == expected


def test_a_shard_is_opened_once_and_closed_with_the_stream(digit_shards, monkeypatch):
    run = Run(digit_shards)
    parts = planned(run)  # before counting: its stream begins to read
    opened = counted(monkeypatch, PosixStore, "open_to_read")
    fetcher = Fetcher(run.pin, reads=1)
    for part in parts:
        fetcher.fetch(part.chunk.pieces.samples)
    assert len(opened) == 3
    assert len(open_tars(digit_shards)) == 3
    fetcher.close()
    assert open_tars(digit_shards) == []


def open_tars(folder):
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:  # that of the listing
            continue
    return sorted(path for path in found if path.startswith(str(folder)))


def test_open_shards_stay_within_their_number_the_last_used_stay(tmp_path):
    for number in range(5):
        (tmp_path / f"{number}.tar").write_bytes(bytes(range(number, number + 50)))
    shards = OpenShards(2)
    for number in (0, 1, 2, 3, 0, 4, 0):
        assert shards.read(f"{tmp_path}/{number}.tar", 10, 5) == bytes(range(number + 10, number + 15))
        assert len(open_tars(tmp_path)) <= 2
    assert open_tars(tmp_path) == [f"{tmp_path}/0.tar", f"{tmp_path}/4.tar"]
    assert shards.read(f"{tmp_path}/0.tar", 45, 20) == bytes(range(45, 50))
    assert shards.read(f"{tmp_path}/0.tar", 60, 20) == b""
    with pytest.raises(NotFound, match=r"5\.tar: does not exist"):
        shards.read(f"{tmp_path}/5.tar", 0, 1)
    shards.close()
    assert open_tars(tmp_path) == []


def test_few_of_the_descriptors_that_a_process_may_have_are_shards(monkeypatch):
    for allowed, most in ((1024, 128), (10**6, 256), (80, 10), (4, 1), (reads.resource.RLIM_INFINITY, 256)):
        monkeypatch.setattr(reads.resource, "getrlimit", lambda kind, allowed=allowed: (allowed, allowed))
        assert most_open_shards() == most


def test_a_file_that_is_let_go_while_it_is_read_is_read_to_the_end(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    shards = OpenShards(1)
    shards.read(f"{tmp_path}/a.tar", 0, 1)
    held = shards._held[f"{tmp_path}/a.tar"]
    shards.close()
    assert held.read(3, 4) == b"3456"


def test_a_server_that_forgot_what_was_opened_is_asked_anew(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    shards, url = OpenShards(1), f"{tmp_path}/a.tar"
    shards.read(url, 0, 1)

    def stale(*_):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    with monkeypatch.context() as patched:
        patched.setattr(OpenFile, "read", stale)
        assert shards.read(url, 2, 3) == b"234"
        assert len(shards._held) == 0
    assert shards.read(url, 3, 3) == b"345"


def test_short_answers_of_the_system_are_completed(tmp_path, monkeypatch):
    (tmp_path / "a.tar").write_bytes(b"0123456789")
    inner = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, start: inner(file, min(length, 3), start))
    assert OpenShards(1).read(f"{tmp_path}/a.tar", 1, 8) == b"12345678"
    assert OpenShards(1).read(f"{tmp_path}/a.tar", 1, 80) == b"123456789"


def test_reads_that_wait_for_their_task_are_given_up_when_the_fetcher_closes(digit_shards, monkeypatch):
    monkeypatch.setattr(fetch, "_LOCAL_READS_A_TASK", 1)
    run, entered, let = Run(digit_shards), threading.Event(), threading.Event()
    inner = OpenShards.read

    def held(*given):
        entered.set()
        assert let.wait(240)
        return inner(*given)

    monkeypatch.setattr(OpenShards, "read", held)
    fetcher = Fetcher(run.pin, reads=1)
    chunks = [part.chunk for part in planned(run, read_ahead_bytes=1)]
    assert fetcher.begin(chunks)
    assert entered.wait(240)
    closing = threading.Thread(target=fetcher.close)
    closing.start()
    with fetcher._changed:
        assert fetcher._changed.wait_for(lambda: fetcher._closed, 240)
    let.set()
    closing.join(240)
    assert any(isinstance(chunk.fetched.exception(240), StorageError) for chunk in chunks)
    assert not fetcher.begin(chunks)


def written(image, form):
    held = io.BytesIO()
    image.save(held, form, **({"lossless": True} if form == "WEBP" else {}))
    return held.getvalue()


def of_kinds():
    """Images of all formats, colours and sizes, one of them bad."""
    noise = np.random.default_rng(3).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    kinds = [
        ("JPEG", "RGB"),
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("WEBP", "RGB"),
        ("JPEG", "L"),
        ("PNG", "RGBA"),
        ("JPEG", "CMYK"),
    ]
    members = []
    for y in range(28):
        form, mode = kinds[y % len(kinds)]
        image = Image.fromarray(noise[: 20 + y, : 90 - 2 * y]).convert(mode)
        members.append((f"{y:02d}.{form.lower()}", b"no image" if y == 11 else written(image, form)))
    return members


@pytest.mark.parametrize("aligned", [False, True])
def test_views_are_those_of_each_sample_by_itself(tmp_path, aligned):
    folder, members = tmp_path / "kinds", of_kinds()
    folder.mkdir()
    write_tar(folder / "s.tar", members)
    run = Run(folder, views=2, augment={"crop": {}, "aligned": aligned})
    locations, crop = Order(run.layout).locate(np.arange(64)), run.data.augment.crop
    for n, image in run.images(4).items():
        y = int(locations.y[n])
        pixels = decode(members[12 if y == 11 else y][1], 10**6)
        sides = np.array([pixels.shape[:2]])
        boxes = crop_boxes(draw_crops(7, np.array([n]), 2, crop), sides[:, 0], sides[:, 1])[0]
        for view in range(2):
            expected = np.empty((3, 8, 8), np.uint8)
            resize(pixels, boxes[0 if aligned else view].tolist(), expected)
            assert np.array_equal(image[view], expected), (n, y, view)


def test_a_bad_sample_takes_the_box_of_the_image_that_stands_in_for_it(tmp_path):
    folder = tmp_path / "sizes"
    folder.mkdir()
    small, large = (np.random.default_rng(side).integers(0, 256, (side, side, 3), dtype=np.uint8) for side in (9, 40))
    cut = png(small)[:60]  # its header is whole and says 9 x 9
    write_tar(folder / "s.tar", [(f"{y:02d}.png", cut if y == 4 else png(large)) for y in range(16)])
    images = Run(folder, views=1).images(1)
    locations = Order(Run(folder).layout).locate(np.arange(16))
    n = int(np.flatnonzero(locations.y == 4)[0])
    draws = draw_crops(7, np.array([n]), 1, Run(folder).data.augment.crop)
    expected = np.empty((3, 8, 8), np.uint8)
    resize(large, crop_boxes(draws, np.array([40]), np.array([40]))[0, 0].tolist(), expected)
    assert np.array_equal(images[n][0], expected)
