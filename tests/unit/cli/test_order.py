"""`gmml order` of a job file."""

import json

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.order import command
from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.plan.machine import Machine
from gmml_cluster.plan.steps import layout_of
from gmml_cluster.run import protocol
from gmml_cluster.run.root import SPEC, corpora_name, create_run
from gmml_cluster.spec.loading.validate import read_job, to_yaml
from tests.fixtures.outputs import checked
from tests.unit.data.conftest import write_tar

JOB = """
name: x
model: {width: 64, depth: 4, heads: 2, patch_size: 4}
method: {name: gmml}
data: {corpora: [{url: CORPUS}], image_size: 32, group: 2, lanes: 2}
batch: {size: 4}
run: {epochs: 1}
"""


@pytest.fixture
def job(tmp_path):
    (tmp_path / "corpus").mkdir()
    for number in range(2):
        write_tar(tmp_path / "corpus" / f"{number}.tar", [(f"{y}.png", b"image") for y in range(4)])
    path = tmp_path / "x.yaml"
    path.write_text(JOB.replace("CORPUS", str(tmp_path / "corpus")))
    return path


def test_a_job_whose_corpus_has_no_index_is_ordered_and_nothing_is_left_behind(job, tmp_path):
    before = sorted(tmp_path.rglob("*"))
    arguments = [str(job), "--samples", "0..7", "--root", str(tmp_path / "runs"), "--json"]
    done = CliRunner().invoke(command, arguments, catch_exceptions=False)
    lines = checked("order", done.stdout)
    assert [line["n"] for line in lines] == list(range(8))
    assert len({(line["shard"], line["member"]) for line in lines}) == 8
    assert sorted(tmp_path.rglob("*")) == before


def test_more_ranks_than_lanes_are_the_options_fault(job, tmp_path):
    done = CliRunner().invoke(command, [str(job), "--ranks", "3", "--root", str(tmp_path / "runs")])
    assert str(done.exception).startswith("--ranks 3: 3 ranks for 2 lanes; each rank needs a lane; use at most 2 ranks")


def test_overrides_order_the_job_that_submission_would_run(job, tmp_path):
    def first_lines(*overrides):
        arguments = [str(job), *overrides, "--samples", "0..7", "--root", str(tmp_path / "runs"), "--json"]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        return [json.loads(line)["member"] for line in done.stdout.splitlines()]

    other = job.parent / "other.yaml"
    other.write_text(job.read_text() + "seed: 5\n")
    assert first_lines("seed=5") != first_lines()
    job.write_text(other.read_text())
    assert first_lines("seed=0") != first_lines() == first_lines("seed=5")


def test_overrides_of_a_run_are_refused(tmp_path):
    done = CliRunner().invoke(command, ["run", "seed=5", "--root", str(tmp_path)])
    assert done.exit_code == 2
    assert "seed=5: a run's fields are fixed" in done.output


def test_auto_is_the_micro_batch_that_fits_this_machines_gpu(job, tmp_path, monkeypatch):
    def micro_batches():
        arguments = [str(job), "--samples", "0..3", "--root", str(tmp_path / "runs"), "--json"]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        return [json.loads(line)["micro_batch"] for line in done.stdout.splitlines()]

    assert micro_batches() == [0, 0, 0, 0]  # without a GPU the whole share
    monkeypatch.setattr("gmml_cluster.plan.machine.this_machine", lambda: Machine(2, 1, gpu_bytes=2**20))
    assert micro_batches() == [0, 0, 1, 1]  # nothing fits, so a group at a time


def test_an_auto_engine_is_what_fits_this_machines_gpu_beside_the_micro_batch(job, tmp_path, monkeypatch):
    def lines(zero, gpu_bytes):
        monkeypatch.setattr("gmml_cluster.plan.machine.this_machine", lambda: Machine(2, 1, gpu_bytes=gpu_bytes))
        arguments = [str(job), f"engine.zero={zero}", "--samples", "0..3", "--root", str(tmp_path / "runs"), "--json"]
        return CliRunner().invoke(command, arguments, catch_exceptions=False).stdout

    for gpu_bytes in (None, 2**20, 2**40):
        assert lines("auto", gpu_bytes) == lines("ddp", gpu_bytes) != ""


def test_a_run_is_ordered_by_the_micro_batch_that_an_attempt_recorded(job, tmp_path):
    root = tmp_path / "runs"
    spec, _ = read_job(str(job), ())
    run = create_run(str(root), "x", {SPEC: to_yaml(spec).encode()}, {"spec": "0", "code": "0", "versions": {}})
    pinned = pin(spec.data.corpora, indexes_below(str(root)))
    run.store.put(corpora_name(pinned.digest), pinned.to_bytes())
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    topology = {"ranks": 1, "micro": "auto"}
    number = protocol.claim(run.log, submit=token, job="j", restart=0, topology=topology, machine={}).attempt
    layout = layout_of(spec, pinned.shapes).to_json()
    protocol.pin(run.log, number, {"corpora": pinned.digest, "layout": layout, "steps": 2, "decoder": "d"})

    def micro_batches(ranks):
        arguments = ["x", "--samples", "0..3", "--ranks", ranks, "--root", str(root), "--json"]
        done = CliRunner().invoke(command, arguments, catch_exceptions=False)
        return [json.loads(line)["micro_batch"] for line in done.stdout.splitlines()]

    assert micro_batches("1") == [0, 0, 0, 0]
    protocol.begin(run.log, number, resumed=None, step=0, micro=2, start_s=0.0, load_s=0.0)
    assert micro_batches("1") == [0, 0, 1, 1]
    assert micro_batches("2") == [0, 0, 0, 0]
