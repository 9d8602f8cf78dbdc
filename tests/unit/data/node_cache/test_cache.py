"""The node's cache: what is kept is what is needed soonest, and nothing that goes wrong with it stops a run."""

import functools
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.corpus.pinned import PinnedShard
from gmml_cluster.data.node_cache import cache as module
from gmml_cluster.data.node_cache import folder
from gmml_cluster.data.node_cache.cache import NodeCache
from gmml_cluster.data.node_cache.plan import NodeUsePlan, name_of
from gmml_cluster.data.reader import fetch
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.errors import StorageError
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data
from gmml_cluster.store.rehearsal import Rehearsal

BLOCK = 16
SHARD = PinnedShard(ShardFile("s3://bucket/a.tar", 10 * BLOCK - 3, "etag"), 10, "crcs")
BYTES = bytes(range(SHARD.file.size))
KILLED = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.unit.data.node_cache.test_cache import SHARD, opened
def stuck(url, start, length):
    print("reading", flush=True)
    time.sleep(600)
opened(Path(sys.argv[1])).read(SHARD, 0, 16, stuck)
"""


class Fetches:
    """The store: counts what is read of it."""

    def __init__(self):
        self.made = []

    def __call__(self, url, start, length):
        self.made.append((start, length))
        return BYTES[start : start + length]


class Never:
    """A plan by which everything is needed later than what is asked for."""

    def next_steps(self, names, now):
        return [now if len(names) == 1 else now + 1 for _ in names]


def opened(path, blocks=100, plan=None):
    return NodeCache(path, blocks * BLOCK, plan or Never(), block_bytes=BLOCK)


def entries(path):
    return sorted(file.name for file in path.iterdir() if file.name != "gmml-count")


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(fetch, "_FIRST_PAUSE_S", 0.0)


@given(st.lists(st.tuples(st.integers(0, len(BYTES)), st.integers(0, 50)), max_size=20))
@settings(max_examples=25, deadline=None)
def test_bytes_are_those_of_the_store_and_each_block_is_read_once(tmp_path_factory, ranges):
    cache, fetches = opened(tmp_path_factory.mktemp("cache")), Fetches()
    for start, length in ranges:
        assert cache.read(SHARD, start, length, fetches) == BYTES[start : start + length]
    assert len(set(fetches.made)) == len(fetches.made)
    assert all(start % BLOCK == 0 and length == min(BLOCK, len(BYTES) - start) for start, length in fetches.made)


def test_another_run_reads_nothing_again(tmp_path):
    fetches = Fetches()
    opened(tmp_path).read(SHARD, 0, len(BYTES), fetches)
    other = opened(tmp_path)
    assert other.read(SHARD, 5, 100, Fetches()) == BYTES[5:105]
    assert len(fetches.made) == 10
    figures = other.take_figures()
    assert (figures.hit_bytes, figures.missed_bytes, figures.faults) == (100, 0, 0)
    assert other.take_figures().hit_bytes == 0


def test_a_shard_of_another_version_is_another(tmp_path):
    cache, fetches = opened(tmp_path), Fetches()
    newer = PinnedShard(ShardFile(SHARD.file.url, SHARD.file.size, "newer"), 10, "crcs")
    cache.read(SHARD, 0, 4, fetches)
    cache.read(newer, 0, 4, fetches)
    assert len(fetches.made) == 2


def test_shards_without_checksums_and_on_the_caches_own_disk_are_not_kept(tmp_path):
    cache, file = opened(tmp_path / "cache"), SHARD.file
    assert cache.serves(SHARD)
    assert not cache.serves(PinnedShard(file, 10))
    assert not cache.serves(PinnedShard(ShardFile(f"{tmp_path}/a.tar", 100, "1"), 10, "crcs"))
    assert cache.serves(PinnedShard(ShardFile("/proc/a.tar", 100, "1"), 10, "crcs"))


def test_two_that_want_a_block_at_once_read_it_once(tmp_path, monkeypatch):
    waits, reading, fetches = threading.Event(), threading.Event(), Fetches()
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=lambda _: waits.set(), monotonic=lambda: 0.0))
    caches = [opened(tmp_path), opened(tmp_path)]
    found = []

    def slow(*asked):
        reading.set()
        assert waits.wait(240)
        return fetches(*asked)

    first = threading.Thread(target=lambda: found.append(caches[0].read(SHARD, 0, 9, slow)))
    first.start()
    assert reading.wait(240)
    found.append(caches[1].read(SHARD, 3, 9, fetches))
    first.join()
    assert sorted(found) == [BYTES[:9], BYTES[3:12]]
    assert fetches.made == [(0, BLOCK)]


def test_who_waits_too_long_reads_just_what_it_needs(tmp_path, monkeypatch):
    cache, fetches = opened(tmp_path), Fetches()
    cache._folder.claim(name_of(SHARD, 0, BLOCK))
    monkeypatch.setattr(module, "_WAIT_S", -1.0)
    assert cache.read(SHARD, 2, 5, fetches) == BYTES[2:7]
    assert fetches.made == [(2, 5)]


def test_a_fetch_that_fails_gives_its_room_back(tmp_path):
    cache = opened(tmp_path, blocks=1)

    def failing(*_):
        raise StorageError("no answer")

    for start in (0, BLOCK):
        with pytest.raises(StorageError, match="no answer"):
            cache.read(SHARD, start, 4, failing)
    assert entries(tmp_path) == []
    assert cache.read(SHARD, 0, 4, Fetches()) == BYTES[:4]
    assert cache.take_figures().faults == 0


def test_a_shard_that_became_shorter_is_not_kept(tmp_path):
    cache = opened(tmp_path)
    assert cache.read(SHARD, 4, 8, lambda *_: b"short") == b"t"
    assert entries(tmp_path) == []


def test_a_run_that_is_killed_while_it_reads_leaves_nothing_that_is_taken_for_data(tmp_path):
    root = str(Path(__file__).resolve().parents[4])
    killed = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path), root], stdout=subprocess.PIPE, text=True)
    try:
        assert killed.stdout.readline() == "reading\n"
        killed.send_signal(signal.SIGKILL)
    finally:
        killed.kill()
        killed.communicate()
    assert [name.endswith(folder.UNFINISHED) for name in entries(tmp_path)] == [True]
    cache, fetches = opened(tmp_path, blocks=1), Fetches()
    for _ in range(2):
        assert cache.read(SHARD, 0, BLOCK, fetches) == BYTES[:BLOCK]
    assert fetches.made == [(0, BLOCK)]


@pytest.mark.parametrize("broken", ["full", "no folder", "read-only"])
def test_a_folder_that_fails_costs_a_warning_and_no_more(tmp_path, monkeypatch, caplog, broken):
    path = Path("/proc/gmml") if broken == "no folder" else tmp_path
    if broken == "full":
        full = Rehearsal()
        full.fill(600)
        monkeypatch.setattr(folder, "rehearsal", full)
    elif broken == "read-only":
        before = opened(path)
        before.read(SHARD, 0, 4, Fetches())
        monkeypatch.setattr(folder, "os", ReadOnly())
    cache, fetches = opened(path), Fetches()
    for start in (0, 3 * BLOCK, 4 * BLOCK):
        assert cache.read(SHARD, start, 4, fetches) == BYTES[start : start + 4]
    assert cache.take_figures().faults == 1  # behind a failure nothing is written for a while
    assert len([record for record in caplog.records if "the bytes come from the store" in record.message]) == 1
    assert len(fetches.made) == (2 if broken == "read-only" else 3)


class ReadOnly:
    """The module os on a file system that cannot be written."""

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, *mode):
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise OSError(30, "Read-only file system", str(path))
        return os.open(path, flags, *mode)


def test_an_entry_that_was_cut_off_is_read_anew(tmp_path):
    cache, fetches = opened(tmp_path), Fetches()
    cache.read(SHARD, 0, 4, fetches)
    os.truncate(tmp_path / (name_of(SHARD, 0, BLOCK) + folder.WHOLE), 7)
    assert cache.read(SHARD, 2, 9, fetches) == BYTES[2:11]
    assert cache.read(SHARD, 2, 9, fetches) == BYTES[2:11]
    assert len(fetches.made) == 2
    assert cache.take_figures().faults == 1


class Trace:
    """Blocks that are asked for one after the other: the plan that knows them all."""

    def __init__(self, blocks):
        self.blocks = blocks
        self.names = {name_of(SHARD, block * BLOCK, BLOCK): block for block in range(9)}

    def next_steps(self, names, now):
        return [self.next_use(self.names[name], now) for name in names]

    def next_use(self, block, now):
        return next((at for at in range(now + 1, len(self.blocks)) if self.blocks[at] == block), 1000)

    def fewest_reads(self, room):
        """Over every choice of what to keep behind each read."""

        @functools.cache
        def fewest(at, kept):
            if at == len(self.blocks):
                return 0
            block = self.blocks[at]
            if block in kept:
                return fewest(at + 1, kept)
            choices = [kept] + ([kept | {block}] if len(kept) < room else [kept - {each} | {block} for each in kept])
            return 1 + min(fewest(at + 1, choice) for choice in choices)

        return fewest(0, frozenset())


@given(st.lists(st.integers(0, 5), max_size=14), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_no_other_choice_of_what_to_keep_would_read_less(tmp_path_factory, blocks, room):
    path, trace, fetches = tmp_path_factory.mktemp("cache"), Trace(blocks), Fetches()
    cache = opened(path, room, trace)
    for step, block in enumerate(blocks):
        cache.step = step
        assert cache.read(SHARD, block * BLOCK, BLOCK, fetches) == BYTES[block * BLOCK :][:BLOCK]
        assert len(entries(path)) <= room
    assert len(fetches.made) == trace.fewest_reads(room)


def test_entries_of_other_corpora_make_room_first_the_oldest_before_the_others(tmp_path):
    for age, name in enumerate(["newer.gmml-block", "older.gmml-block"]):
        (tmp_path / name).write_bytes(b"of another version")
        os.utime(tmp_path / name, ns=(10**18 - age, 10**18 - age))
    trace = Trace([0, 1, 2, 2, 1, 0])
    trace.next_steps = functools.partial(known_steps, trace)
    cache, fetches = opened(tmp_path, 3, trace), Fetches()
    kept = []
    for step in range(3):
        cache.step = step
        cache.read(SHARD, step * BLOCK, BLOCK, fetches)
        kept.append([name for name in ("newer", "older") if f"{name}.gmml-block" in entries(tmp_path)])
    assert kept == [["newer", "older"], ["newer"], []]
    assert len(entries(tmp_path)) == 3


def known_steps(trace, names, now):
    return [trace.next_use(trace.names[name], now) if name in trace.names else None for name in names]


class Run:
    """Two ranks over the digits in a bucket, on one node."""

    def __init__(self, path, limit=2**30, ranks=2):
        self.pin = pin([CorpusSpec(url="s3://bucket/digits")])
        self.layout = make_layout(seed=7, batch=8, group=2, lanes=4, window=4, spans=2, corpora=self.pin.shapes)
        self.caches = [None] * ranks if path is None else [self.cache(path, limit, ranks) for _ in range(ranks)]
        self.ranks = ranks

    def cache(self, path, limit, ranks):
        plan = NodeUsePlan(Order(self.layout), self.pin, ranks, range(ranks))
        return NodeCache(path, limit, plan, block_bytes=256)

    def images(self, steps):
        """Images by sample number; all ranks read ahead at once."""
        data = Data.model_validate({"corpora": [{"url": "unused"}], "image_size": 8})
        streams = [
            Stream(
                Order(self.layout), self.pin, data, seed=7, views=1, ranks=self.ranks, rank=rank, first_step=0,
                read_ahead_bytes=2**12, node_cache=cache,
            )
            for rank, cache in enumerate(self.caches)
        ]  # fmt: skip
        found = {}
        try:
            for _ in range(steps):
                for stream in streams:
                    batch = stream.next()
                    found.update(zip(batch.numbers.tolist(), batch.images, strict=True))
        finally:
            for stream in streams:
                stream.close()
        return found


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert all(np.array_equal(image, other[n]) for n, image in one.items())


def test_two_ranks_read_each_byte_once_in_two_epochs_and_a_later_run_none(bucket, tmp_path):
    expected = Run(None).images(6)  # 48 draws of 23 samples
    run = Run(tmp_path / "cache")
    bucket.reads.clear()
    assert_same(run.images(6), expected)
    bytes_read = [(name, at) for name, start, length in bucket.reads for at in range(start, start + length)]
    assert len(set(bytes_read)) == len(bytes_read) > 0
    later = Run(tmp_path / "cache")
    bucket.reads.clear()
    assert_same(later.images(6), expected)
    assert bucket.reads == []


@pytest.mark.parametrize("blocks", [0, 1, 7, 30])
def test_a_smaller_limit_is_never_exceeded_and_changes_no_image(bucket, tmp_path, monkeypatch, blocks):
    path, sizes, get = tmp_path / "cache", [], bucket.get

    def measured(*asked):
        with folder.CacheFolder(path, 0)._counted():  # so that nothing is removed while it is measured
            sizes.append(sum(file.stat().st_size for file in path.iterdir() if file.name != "gmml-count"))
        return get(*asked)

    expected, run = Run(None).images(6), Run(path, limit=blocks * 256)
    monkeypatch.setattr(bucket, "get", measured)
    assert_same(run.images(6), expected)
    assert sizes
    assert max(sizes) <= blocks * 256
    assert len(entries(path)) <= blocks


def test_damaged_entries_are_read_again_from_the_store_and_counted(bucket, tmp_path, caplog):
    path = tmp_path / "cache"
    expected = Run(path, ranks=1).images(6)
    for name in entries(path):
        (path / name).write_bytes(bytes(byte ^ 0xFF for byte in (path / name).read_bytes()))
    run = Run(path, ranks=1)
    run.caches[0].take_figures()
    figures, take = [], run.caches[0].take_figures
    run.caches[0].take_figures = lambda: figures.append(take()) or figures[-1]
    assert_same(run.images(6), expected)
    assert sum(each.faults for each in figures) > 0
    assert "bytes disagree with the index" in caplog.text


def test_wrong_answers_of_the_store_do_not_stay_in_the_cache(bucket, tmp_path, caplog):
    expected = Run(None).images(6)
    spoilt = Run(tmp_path / "cache", ranks=1)
    bucket.spoil = 3
    assert_same(spoilt.images(6), expected)
    assert bucket.spoil == 0
    assert "bytes disagree with the index" in caplog.text
    caplog.clear()
    assert_same(Run(tmp_path / "cache", ranks=1).images(6), expected)
    assert not caplog.records
