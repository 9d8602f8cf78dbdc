"""The main job on a real SLURM of two nodes and a real S3 store: streamed, saved, cancelled and resumed there."""

import os
import subprocess
import sys

import pytest

from gmml_cluster.store.open import open_store
from tests.fixtures.runs import REPOSITORY, Workshop, ended

CIFAR = REPOSITORY.parent / "shared" / "data"
SMALL = ("model.width=32", "model.depth=2", "model.heads=2", "method.decoder_width=32", "method.decoder_depth=1")
STEPS = 240


@pytest.fixture(scope="module")
def cifar(tmp_path_factory):
    """Folder of three CIFAR-10 shards of 1000, 333 and 1250 images."""
    if not (CIFAR / "expand.py").is_file():
        pytest.skip(f"{CIFAR} is not there: the small real data sets are not part of the repository")
    folder = tmp_path_factory.mktemp("cifar")
    subprocess.run([sys.executable, str(CIFAR / "expand.py"), str(folder), "cifar10"], check=True)
    return [folder / "cifar10" / f"train-{number:06d}.tar" for number in (0, 2, 3)]


@pytest.fixture
def site(tmp_path, slurm, s3_server, cifar, monkeypatch):
    """A bucket with the shards, and a home from which jobs go to SLURM."""
    for name, value in s3_server.environment.items():
        monkeypatch.setenv(name, value)
    bucket = f"s3://{s3_server.make_bucket()}"
    for shard in cifar:
        open_store(f"{bucket}/corpora/cifar10").put_file(shard.name, shard)
    return Workshop(tmp_path, f"{bucket}/corpora/cifar10/train-*.tar", f"{bucket}/runs", slurm.environment)


def profile(site):
    slurm = {"partition": "low", "time": "10 min", "notice": "60 s", "folder": str(site.folder / "slurm")}
    secrets = [name for name in os.environ if name.startswith("AWS_")]
    return site.profile(1, launcher="slurm", secrets=secrets, slurm=slurm, environment=site.gates)


def submit(site, name, cluster, *more):
    job = REPOSITORY / "jobs" / "cifar10_vit_tiny.yaml"
    fields = (f"name={name}", f"data.corpora.0.url={site.corpus}", "data.lanes=4", "run={steps: 240}")
    return site.call("gmml-submit", job, "--cluster", cluster, "resources.nodes=2", *fields, *SMALL, *more)


def losses(lines):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines]


def test_two_nodes_stream_from_s3_and_a_cancelled_run_resumes_bit_for_bit(site):
    cluster = profile(site)
    submit(site, "calm", cluster, "--follow")
    calm = site.lines("calm")
    assert [line["step"] for line in calm] == list(range(STEPS))
    first, last = (sum(line["loss"] for line in part) / 30 for part in (calm[:30], calm[-30:]))
    assert last < 0.95 * first
    claim = next(entry for entry in site.entries("calm") if entry["kind"] == "claim")
    assert (claim["topology"]["ranks"], claim["topology"]["zero"]) == (2, 1)

    site.pace(3, after=10)
    submit(site, "broken", cluster)
    site.until("broken", lambda entries: any(entry["kind"] == "begin" for entry in entries))
    site.call("gmml", "cancel", "broken")
    entries = site.until("broken", ended)
    assert ended(entries) == ["cancelled"]
    stopped = next(entry["step"] for entry in entries if entry["kind"] == "commit")
    assert stopped < STEPS - 1
    site.pace(0)
    site.call("gmml", "resume", "broken", "--follow")
    entries = site.entries("broken")
    assert ended(entries) == ["cancelled", "finished"]
    assert [entry["step"] for entry in entries if entry["kind"] == "begin"] == [0, stopped + 1]
    assert losses(site.lines("broken")) == losses(calm)
    files = [found.name for found in open_store(site.root).list_objects("broken/checkpoints/")]
    assert any(name.endswith("manifest.json") for name in files)
