"""Corpora packed and indexed by the tasks of a real Ray cluster: the bytes and the report of one machine."""

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.fixtures.ray import tasks_named
from tests.fixtures.slurm import until
from tests.unit.data.conftest import digits, write_digits

__all__ = ["digits"]
SAMPLES, SHARD = 23, 7


@pytest.fixture
def images(tmp_path, digits):
    """23 digits and a file that is no image."""
    return write_digits(tmp_path / "images", digits, SAMPLES)


@pytest.fixture
def profile(tmp_path, ray_cluster):
    path = tmp_path / "ray.yaml"
    path.write_text(json.dumps({"launcher": "ray", "root": str(tmp_path), "ray": {"address": ray_cluster.dashboard}}))
    return path


def start(ray_cluster, *words):
    command = [sys.executable, "-m", "gmml_cluster.cli.main", "corpus", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=ray_cluster.environment, text=True, **streams)


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".tar", ".txt")}


def test_a_corpus_is_packed_on_ray_as_here_although_a_worker_is_killed(images, tmp_path, profile, ray_cluster):
    image = images / "class0" / "4.png"
    data = image.read_bytes()
    image.unlink()
    os.mkfifo(image)  # its shard waits, and its worker is killed then
    here = start(ray_cluster, "pack", images, tmp_path / "here", "--shard-samples", SHARD, "--workers", 1)
    with open(image, "wb") as pipe:
        pipe.write(data)
    expected, error = here.communicate()
    assert here.returncode == 0, error

    there = start(ray_cluster, "pack", images, tmp_path / "there", "--shard-samples", SHARD, "--cluster", profile)
    done = tmp_path / "there" / ".packing" / "done"
    shards = len(content(tmp_path / "here")) - 1
    until(lambda: done.is_dir() and len(list(done.iterdir())) == shards - 1, 240, "all shards but one stand")
    until(
        lambda: len(tasks_named("pack_shard")) == 1,
        240,
        "one worker is at the last shard, and the others have ended theirs",
    )
    (killed,) = tasks_named("pack_shard")
    os.kill(killed, signal.SIGKILL)
    until(lambda: set(tasks_named("pack_shard")) - {killed}, 240, "another worker is at it")
    with open(image, "wb") as pipe:
        pipe.write(data)
    printed, error = there.communicate(timeout=240)
    assert there.returncode == 0, error
    assert printed == expected.replace("/here/", "/there/")
    assert "left out" in printed
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert not (tmp_path / "there" / ".packing").exists()


def test_shards_are_indexed_on_ray_and_a_fault_there_is_one_here(images, tmp_path, profile, ray_cluster):
    packed = start(ray_cluster, "pack", images, tmp_path / "out", "--shard-samples", SHARD, "--workers", 1)
    assert packed.wait() == 0
    (tmp_path / "out" / "shard-000001.tar").write_bytes(b"no tar" * 100)
    indexing = start(ray_cluster, "index", tmp_path / "out", "--anew", "--cluster", profile)
    printed, error = indexing.communicate(timeout=240)
    assert indexing.returncode == 3
    assert printed.splitlines()[0] == "4 shards: 3 indexed, 0 had an index with checksums"
    assert f"{tmp_path}/out/shard-000001.tar: is no tar" in error
