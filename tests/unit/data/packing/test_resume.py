"""Shards of a plan: the same bytes by any number of workers and after any crash, and nothing made twice."""

import json
import os
import random
import subprocess
import sys
import time

import pytest

from gmml_cluster.data.corpus import listing
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import CorpusUrl, pin
from gmml_cluster.data.packing import pack as packing
from gmml_cluster.data.packing import shard
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.workers import Processes
from gmml_cluster.errors import DataError, SpecError, StorageError
from gmml_cluster.store.posix import PosixStore
from tests.unit.data.conftest import write_digits

SAMPLES, SHARD = 23, 7
SHARDS = -(-(SAMPLES + 2) // SHARD)


@pytest.fixture
def images(tmp_path, digits):
    """23 digits, one file that is no image and one empty file."""
    folder = write_digits(tmp_path / "images", digits, SAMPLES)
    (folder / "class1" / "empty.png").write_bytes(b"")
    return folder


class Stopping:
    """Makes only some of the tasks, in another order, and then fails."""

    def __init__(self, order, count):
        self.order, self.count = order, count

    def map(self, function, tasks):
        listed = list(tasks)
        some = [listed[at % len(listed)] for at in self.order][: self.count]
        for task in {task.name: task for task in some}.values():
            yield function(task)
        raise StorageError("stopped")


def content(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix in (".tar", ".txt")}


def report(folder):
    return {**json.loads((folder / "packed.json").read_text()), "url": ""}


def packed(images, folder, **options):
    return pack(find_source(str(images)), str(folder), shard_samples=SHARD, **options)


@pytest.mark.parametrize("seed", range(3))
def test_shards_and_report_do_not_depend_on_order_and_crashes(images, tmp_path, seed):
    whole, draw = packed(images, tmp_path / "whole"), random.Random(seed)
    for count in (1, SHARDS - 1):
        with pytest.raises(StorageError, match="stopped"):
            packed(images, tmp_path / "out", workers=Stopping(draw.sample(range(SHARDS), SHARDS), count))
    assert packed(images, tmp_path / "out") == whole
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert report(tmp_path / "out") == report(tmp_path / "whole")
    assert not (tmp_path / "out" / ".packing").exists()
    assert len(whole.left_out) == 2
    assert whole.samples == SAMPLES


def test_several_processes_make_the_same_shards(images, tmp_path):
    whole = packed(images, tmp_path / "whole")
    assert packed(images, tmp_path / "out", workers=Processes(2, ("gmml_cluster.data.packing.shard",))) == whole
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_what_stands_is_not_made_again_and_a_complete_corpus_is_only_reported(images, tmp_path, monkeypatch):
    with pytest.raises(StorageError, match="stopped"):
        packed(images, tmp_path / "out", workers=Stopping(range(SHARDS), 2))
    made = []
    monkeypatch.setattr(packing, "pack_shard", lambda task: made.append(task.number) or shard.pack_shard(task))
    first = packed(images, tmp_path / "out")
    assert made == [2, 3]
    stamps = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()}
    assert packed(images, tmp_path / "out") == first
    assert len(made) == 2
    assert {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").iterdir()} == stamps


def test_an_unfinished_corpus_is_refused_where_shards_are_listed(images, tmp_path):
    with pytest.raises(StorageError, match="stopped"):
        packed(images, tmp_path / "out", workers=Stopping(range(SHARDS), 2))
    for url in (tmp_path, tmp_path / "out", tmp_path / "out" / "shard-*.tar"):
        with pytest.raises(DataError, match=r"/out: is being packed, or its packing was broken off"):
            list_shards(str(url))
    packed(images, tmp_path / "out")
    assert len(list_shards(str(tmp_path / "out" / "shard-*.tar"))) == SHARDS


@pytest.mark.parametrize("complete", [False, True])
def test_another_plan_is_refused_by_what_differs(images, tmp_path, complete):
    if complete:
        packed(images, tmp_path / "out")
    else:
        with pytest.raises(StorageError, match="stopped"):
            packed(images, tmp_path / "out", workers=Stopping(range(SHARDS), 2))
    before = content(tmp_path / "out")
    with pytest.raises(SpecError, match=r"out: (is being|was) packed by another plan \(seed 0, now 1\)"):
        packed(images, tmp_path / "out", seed=1)
    (images / "class0" / "text.jpg").write_bytes(b"changed")
    with pytest.raises(SpecError, match=r"another plan \(the source has other files\)"):
        packed(images, tmp_path / "out")
    assert content(tmp_path / "out") == before


def test_a_shard_that_was_changed_meanwhile_is_refused_and_a_deleted_one_made_again(images, tmp_path):
    whole = packed(images, tmp_path / "whole")
    with pytest.raises(StorageError, match="stopped"):
        packed(images, tmp_path / "out", workers=Stopping(range(SHARDS), 2))
    first, second = (tmp_path / "out" / f"shard-00000{number}.tar" for number in (0, 1))
    second.unlink()
    data = first.read_bytes()
    first.write_bytes(data + b"more")
    with pytest.raises(DataError, match=rf"{first}: has \d+ bytes and was made with {len(data)}; remove it"):
        packed(images, tmp_path / "out")
    first.unlink()
    assert packed(images, tmp_path / "out") == whole
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_foreign_files_beside_the_shards_are_refused(images, tmp_path):
    with pytest.raises(StorageError, match="stopped"):
        packed(images, tmp_path / "out", workers=Stopping(range(SHARDS), 2))
    (tmp_path / "out" / "precious").write_text("mine")
    with pytest.raises(SpecError, match="exists and is not empty"):
        packed(images, tmp_path / "out")


def test_a_worker_that_sees_no_plan_writes_nothing(images, tmp_path, monkeypatch):
    """As where its disk is another, or the command was given up while it was out of sight."""
    source, tasks = find_source(str(images)), []

    class Keeping:
        def map(self, function, given):
            tasks.extend(given)
            raise StorageError("stopped")

    with pytest.raises(StorageError, match="stopped"):
        pack(source, str(tmp_path / "out"), shard_samples=SHARD, workers=Keeping())
    with pytest.raises(DataError, match=r"out: is not where this corpus is packed, as seen by process \d+ on"):
        shard.pack_shard(tasks[0])
    assert not (tmp_path / "out").exists()


def test_packing_into_a_bucket_goes_on_where_it_failed(images, tmp_path, monkeypatch):
    store = PosixStore(tmp_path / "bucket")
    monkeypatch.setattr(listing, "open_store", lambda url: store if url.startswith("s3://") else PosixStore(url))
    listing.store_of.cache_clear()
    packed(images, tmp_path / "whole")
    put_file = store.put_file

    def failing_put(name, path):
        if name.startswith("shard-000002"):
            raise StorageError("bucket full")
        put_file(name, path)

    monkeypatch.setattr(store, "put_file", failing_put)
    with pytest.raises(StorageError, match="bucket full"):
        packed(images, "s3://bucket/out")
    monkeypatch.setattr(store, "put_file", put_file)
    packed(images, "s3://bucket/out")
    listing.store_of.cache_clear()
    assert content(tmp_path / "bucket") == content(tmp_path / "whole")
    names = [f"shard-{i:06d}.tar{suffix}" for i in range(SHARDS) for suffix in ("", ".index")]
    assert [found.name for found in store.list_objects()] == sorted(["classes.txt", "packed.json", *names])


def start(*arguments):
    words = [sys.executable, "-m", "gmml_cluster.cli.main", "corpus", "pack", *map(str, arguments)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def children(pid):
    """Processes below one, by pid."""
    parents = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat") as file:
                parents[int(name)] = int(file.read().rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
    found, more = set(), {pid}
    while more:
        more = {child for child, parent in parents.items() if parent in more}
        found |= more
    return found


def wait_for(condition):
    deadline = time.monotonic() + 240
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture
def hanging(images):
    """Source whose packing waits at one image, a pipe; and the pipe."""
    image = images / "class0" / "4.png"
    data = image.read_bytes()
    image.unlink()
    os.mkfifo(image)
    return image, data


def alive(pids):
    return {pid for pid in pids if os.path.exists(f"/proc/{pid}") and " Z " not in open(f"/proc/{pid}/stat").read()}


def test_kill_of_the_whole_command_costs_the_shards_in_flight(images, hanging, tmp_path):
    with start(images, tmp_path / "out", "--shard-samples", SHARD, "--workers", 2) as command:
        done = tmp_path / "out" / ".packing" / "done"
        wait_for(lambda: done.is_dir() and len(list(done.glob("[!.]*"))) >= SHARDS - 2)
        below = children(command.pid)
        command.kill()
        command.wait()
    wait_for(lambda: not alive(below))
    # a record that was being written when its process died keeps its hidden name
    shards = [tmp_path / "out" / f"shard-{record.stem}.tar" for record in done.glob("[!.]*")]
    stamps = {shard.name: shard.stat().st_mtime_ns for shard in shards}
    with start(images, tmp_path / "out", "--shard-samples", SHARD, "--workers", 1) as command:
        with open(hanging[0], "wb") as pipe:
            pipe.write(hanging[1])
        out, error = command.communicate()
    assert command.returncode == 0, error
    assert f"{SAMPLES} samples in {SHARDS} shards" in out
    after = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("*.tar")}
    assert {name: after[name] for name in stamps} == stamps
    assert len(pin([CorpusUrl(str(tmp_path / "out"))]).files) == SHARDS
