"""`gmml order` of a job file."""

import json

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.order import command
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
    lines = [json.loads(line) for line in done.stdout.splitlines()]
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
