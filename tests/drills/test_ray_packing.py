"""Packing and indexing on Ray that were stopped by Ray's own tools go on with what stands, and do nothing twice."""

import gzip
import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.fixtures.ray import running_ray, tasks_named
from tests.fixtures.runs import HELD
from tests.fixtures.slurm import until
from tests.unit.data.conftest import digit_shards, digits, write_digits
from tests.unit.data.packing.test_archives import write_parquet

__all__ = ["digit_shards", "digits"]
pytestmark = pytest.mark.timeout(1200)

SAMPLES, SHARD, SIDE = 23, 4, 12


@pytest.fixture(scope="module")
def cluster():
    with running_ray(nodes=2) as made:
        yield made


def start(environment, *words):
    command = [sys.executable, "-m", "gmml_cluster.cli.main", "corpus", *map(str, words)]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **streams)


def pack(environment, *words, samples=SHARD):
    return start(environment, "pack", *words, "--shard-samples", str(samples), "--short-side", str(SIDE))


def profile_of(folder, cluster, **environment):
    path = folder / "ray.yaml"
    sections = {"launcher": "ray", "root": str(folder), "ray": {"address": cluster.dashboard}}
    path.write_text(json.dumps({**sections, "environment": environment}))
    return path


def stop(followed, cluster, task):
    """End the following by Ctrl-C, then the job by the command that this names."""
    followed.send_signal(signal.SIGINT)
    _, printed = followed.communicate(timeout=240)
    command = re.search(r"ray job stop --address \S+ \S+", printed)[0]
    subprocess.run(shlex.split(command), env=cluster.environment, check=True, capture_output=True)
    until(lambda: not tasks_named(task), 240, "the job's tasks are gone")


def standing(folder, suffix):
    """When each file that stands was made."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob(f"*{suffix}"))}


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_packing_goes_on_where_its_job_was_stopped_and_makes_no_shard_twice(tmp_path, digits, cluster):
    images = write_digits(tmp_path / "images", digits, SAMPLES)
    image = images / "class0" / "4.png"
    data = image.read_bytes()
    image.unlink()
    os.mkfifo(image)  # its shard waits until somebody writes the image
    here = pack(cluster.environment, images, tmp_path / "here", "--workers", 1)
    image.write_bytes(data)
    assert here.wait() == 0, here.stderr.read()
    there = tmp_path / "there"
    words = [images, there, "--cluster", profile_of(tmp_path, cluster)]
    first = pack(cluster.environment, *words)
    until(lambda: len(content(there)) == len(content(tmp_path / "here")) - 1, 240, "all shards but one stand")
    kept = standing(there, ".tar")
    stop(first, cluster, "pack_shard")
    again = pack(cluster.environment, *words)
    image.write_bytes(data)
    _, error = again.communicate(timeout=240)
    assert again.returncode == 0, error
    assert content(there) == content(tmp_path / "here")
    assert kept.items() <= standing(there, ".tar").items()


@pytest.mark.parametrize("kind", ["tar.gz", "parquet"])
def test_compressed_tars_and_parquet_files_are_packed_there_as_here(tmp_path, digits, digit_shards, cluster, kind):
    sources = tmp_path / "sources"
    sources.mkdir()
    if kind == "parquet":
        for part in range(2):
            write_parquet(sources / f"train-{part:05d}-of-00002.parquet", digits[part * SAMPLES : (part + 1) * SAMPLES])
    else:
        for shard in digit_shards.glob("*.tar"):
            (sources / f"{shard.name}.gz").write_bytes(gzip.compress(shard.read_bytes()))
    sources /= f"*.{kind}"
    here = pack(cluster.environment, sources, tmp_path / "here", "--workers", 1)
    expected, error = here.communicate(timeout=240)
    assert here.returncode == 0, error
    words = [sources, tmp_path / "there", "--cluster", profile_of(tmp_path, cluster)]
    there = pack(cluster.environment, *words)
    printed, error = there.communicate(timeout=240)
    assert there.returncode == 0, error
    assert printed == expected.replace("/here/", "/there/")
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert content(tmp_path / "here")


def test_indexing_goes_on_where_its_job_was_stopped_and_reads_no_shard_twice(tmp_path, digits, cluster):
    shards, held = tmp_path / "shards", tmp_path / "held"
    held.mkdir()
    images = write_digits(tmp_path / "images", digits, SAMPLES)
    packed = pack(cluster.environment, images, shards, "--workers", 1, samples=1)
    assert packed.wait() == 0, packed.stderr.read()
    indexes = sorted(shards.glob("*.index"))
    for path in indexes:
        path.unlink()
    last = indexes[-1].name
    (held / last).touch()  # what is to put this index waits
    profile = profile_of(tmp_path, cluster, PYTHONPATH=f"{HELD}", HELD=f"{held}", RANK="0")
    words = ["index", shards, "--cluster", profile]
    first = start(cluster.environment, *words)
    until(lambda: len(standing(shards, ".index")) == len(indexes) - 1, 240, "all indexes but one stand")
    kept = standing(shards, ".index")
    stop(first, cluster, "index_shards")
    (held / last).unlink()
    again = start(cluster.environment, *words)
    printed, error = again.communicate(timeout=240)
    assert again.returncode == 0, error
    # one shard more than images, as one of the files is none
    assert printed.splitlines()[0] == f"{len(indexes)} shards: 1 indexed, {len(kept)} had an index with checksums"
    assert kept.items() <= standing(shards, ".index").items()
