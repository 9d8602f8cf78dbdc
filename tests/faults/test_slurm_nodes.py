"""The real worker on a real SLURM whose nodes are taken away or are bad."""

import os
import signal

import pytest

from tests.fixtures.runs import Workshop, ended
from tests.fixtures.slurm import until
from tests.fixtures.supervised import ranks_of

STEPS = 150


@pytest.fixture
def site(tmp_path, slurm, digits):
    return Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), slurm.environment)


def submit(site, name, partition, *more, environment=None, **sections):
    section = {"partition": partition, "time": "10 min", "notice": "60 s", "sbatch_args": {"exclusive": True}}
    cluster = site.profile(1, launcher="slurm", slurm=section, environment=environment or site.gates)
    job = site.job(name, run={"steps": STEPS}, checkpoint={"every": "1000 steps", "keep": 2}, **sections)
    site.call("gmml-submit", job, "--cluster", cluster, "resources.nodes=2", *more)


def begun(entries):
    return any(entry["kind"] == "begin" for entry in entries)


def of_kind(entries, kind, field):
    return [entry[field] for entry in entries if entry["kind"] == kind]


def losses(site, run):
    return [(line["step"], line["loss"], line["grad_norm"]) for line in site.lines(run)]


@pytest.fixture(scope="module")
def calm(tmp_path_factory, slurm, digits):
    """Losses of a run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("calm")
    site = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), slurm.environment)
    submit(site, "calm", "r40", "--follow")
    return losses(site, "calm")


def test_a_rank_killed_by_the_kernel_is_started_again_in_the_same_allocation_bit_for_bit(slurm, site, calm):
    site.pace(3, after=30)
    submit(site, "killed", "r40", "checkpoint.every=20 steps")
    site.until("killed", lambda entries: "commit" in [entry["kind"] for entry in entries])
    os.kill(ranks_of(site, "killed")[1], signal.SIGKILL)
    site.pace(0)
    entries = site.until("killed", lambda entries: "finished" in ended(entries))
    assert ended(entries) == ["lost", "finished"]
    assert of_kind(entries, "claim", "restart") == [0, 1]
    assert slurm.job(of_kind(entries, "queued", "job")[0])["Restarts"] == "0"
    assert losses(site, "killed") == calm


def test_a_preempted_run_comes_back_from_its_notices_checkpoint_bit_for_bit(slurm, site, calm):
    site.pace(3, after=30)
    submit(site, "preempted", "r40")
    site.until("preempted", begun)
    urgent = slurm.submit("sleep 1", "-p", "high", "-N", "2", "--exclusive")
    until(lambda: slurm.job(urgent)["JobState"] == "COMPLETED", 120, "the urgent job is done")
    site.pace(0)
    entries = site.until("preempted", lambda entries: "finished" in ended(entries))
    assert ended(entries) == ["notice", "finished"]
    assert of_kind(entries, "cause", "cause") == ["preempted"]
    saved, _ = of_kind(entries, "commit", "step")
    assert of_kind(entries, "begin", "step") == [0, saved + 1]
    assert len(set(of_kind(entries, "claim", "job"))) == 1
    assert losses(site, "preempted") == calm


def test_a_rank_that_fails_before_the_meeting_is_quoted_and_tried_three_times(slurm, site):
    (site.folder / "sitecustomize.py").write_text(
        "import os, sys\nif os.environ.get('SLURM_PROCID') == '1':\n    sys.modules['torch'] = None\n"
    )
    heard = site.folder / "heard"
    notify = {"command": ["sh", "-c", f"cat >> {heard}"]}
    submit(site, "broken", "low", environment={"PYTHONPATH": str(site.folder)}, notify=notify)
    entries = site.until("broken", lambda entries: len(ended(entries)) == 3)
    assert ended(entries) == ["start_failed"] * 3
    job = of_kind(entries, "queued", "job")[0]
    for entry in [entry for entry in entries if entry["kind"] == "end"]:
        assert f"{job}_1_log.err ends with 'ModuleNotFoundError: import of torch" in entry["message"]
    until(lambda: "CO" in slurm.job(job)["JobState"] or "FAILED" in slurm.job(job)["JobState"], 90, "the job is over")
    assert slurm.job(job)["Restarts"] == "0"
    assert ".err" in site.call("gmml", "status", "broken")
    until(heard.exists, 90, "the command of `notify` has run")
    assert "broken is not started again, its retries are spent" in heard.read_text()
