"""Packing on Ray that was stopped by Ray's own tools goes on with what stands, to the bytes of one machine."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest

from tests.fixtures.ray import running_ray, tasks_named
from tests.fixtures.slurm import until
from tests.unit.data.conftest import digits, write_digits

__all__ = ["digits"]
pytestmark = pytest.mark.timeout(1200)

SAMPLES, SHARD, SIDE = 23, 4, 12


def pack(environment, *words):
    options = ["--shard-samples", str(SHARD), "--short-side", str(SIDE)]
    command = [sys.executable, "-m", "gmml_cluster.cli.main", "corpus", "pack", *map(str, words), *options]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **streams)


def standing(folder):
    """When each shard that stands was made."""
    return {path.name: path.stat().st_mtime_ns for path in sorted(folder.glob("*.tar"))}


def content(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.tar"))}


def test_packing_goes_on_where_its_job_was_stopped_and_makes_no_shard_twice(tmp_path, digits):
    images = write_digits(tmp_path / "images", digits, SAMPLES)
    image = images / "class0" / "4.png"
    data = image.read_bytes()
    image.unlink()
    os.mkfifo(image)  # its shard waits until somebody writes the image
    with running_ray(nodes=2) as cluster:
        here = pack(cluster.environment, images, tmp_path / "here", "--workers", 1)
        image.write_bytes(data)
        assert here.wait() == 0, here.stderr.read()
        profile = tmp_path / "ray.yaml"
        sections = {"launcher": "ray", "root": str(tmp_path), "ray": {"address": cluster.dashboard}}
        profile.write_text(json.dumps(sections))
        words = [images, tmp_path / "there", "--cluster", profile]
        first = pack(cluster.environment, *words)
        until(
            lambda: len(standing(tmp_path / "there")) == len(content(tmp_path / "here")) - 1, 240, "all but one stand"
        )
        kept = standing(tmp_path / "there")
        first.send_signal(signal.SIGINT)  # ends the following alone, and says how to end the job
        _, printed = first.communicate(timeout=240)
        stop = re.search(r"ray job stop --address \S+ \S+", printed)[0]
        subprocess.run(shlex.split(stop), env=cluster.environment, check=True, capture_output=True)
        until(lambda: not tasks_named("pack_shard"), 240, "the job's tasks are gone")
        again = pack(cluster.environment, *words)
        image.write_bytes(data)
        _, error = again.communicate(timeout=240)
        assert again.returncode == 0, error
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert kept.items() <= standing(tmp_path / "there").items()
