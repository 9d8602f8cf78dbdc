"""What `gmml status` shows of runs, from their logs and their jobs."""

import shutil

import pytest

from gmml_cluster.launch.jobs import Jobs, refs_of
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import status
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run, run_root


@pytest.fixture
def run(tmp_path):
    made = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(made.log, launcher="slurm", code="c", bounds={})
    protocol.queued(made.log, token, "17")
    protocol.claim(made.log, submit=token, job="17", restart=0, topology={}, machine={})
    return made


def reported(monkeypatch, report):
    jobs = lambda history: Jobs(dict.fromkeys(refs_of(history), report))  # noqa: E731
    monkeypatch.setattr(status, "poll", lambda histories: {run: jobs(found) for run, found in histories.items()})


def test_a_copy_of_a_running_run_does_not_pass_for_running(run, monkeypatch, tmp_path):
    reported(monkeypatch, JobReport("running"))
    shutil.copytree(run.url, tmp_path / "copies" / "a")
    original, copy = status.statuses([run, run_root(str(tmp_path / "copies"), "a")]).documents
    assert (original["state"], original["misplaced"]) == ("running", None)
    assert copy["state"] == "interrupted"
    assert f"is a copy of the run at {run.url}" in copy["misplaced"]


def test_a_job_that_waits_for_a_full_store_is_not_shown_as_running(run, monkeypatch):
    reported(monkeypatch, JobReport("queued", "runs: No space left on device", 1e9))
    (document,) = status.statuses([run]).documents
    assert (document["state"], document["queue_reason"]) == ("queued", "runs: No space left on device")
    assert document["expected_start"] == 1e9
