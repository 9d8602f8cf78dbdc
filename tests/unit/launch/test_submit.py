"""A submission that is interrupted, comes second or was cut off leaves no job that nobody knows of."""

import pytest
import yaml

from gmml_cluster.errors import SpecError, StorageError
from gmml_cluster.launch import prepare, submit
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.run import protocol
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.root import create_run, run_root
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions
from tests.unit.launch.test_preflight import png, shard


class Scheduler:
    """Takes every job, as number 17."""

    def __init__(self):
        self.queue, self.told = [], []

    def submit(self, submission):
        self.queue.append("17")
        return "17"

    def poll(self, asked):
        return {job: JobReport("queued" if job in self.queue else "gone") for job in asked}

    def cancel(self, job):
        self.queue.remove(job)
        self.told.append(job)


@pytest.fixture
def run(tmp_path):
    return create_run(str(tmp_path / "runs"), "a", {}, {})


def submission(run):
    profile = ClusterProfile(launcher="local", root=run.root)
    return submissions.submission(profile, name=run.name)


@pytest.mark.parametrize("trouble", [KeyboardInterrupt(), StorageError("disk full")])
def test_a_job_that_the_log_cannot_name_is_taken_back(run, monkeypatch, trouble):
    scheduler = Scheduler()

    def interrupted(*_):
        raise trouble

    monkeypatch.setattr(protocol, "queued", interrupted)
    with pytest.raises(type(trouble)):
        submit.hand_over(run, scheduler, submission(run))
    assert scheduler.told == ["17"]


def test_of_two_submits_that_judged_the_same_history_one_stands(run):
    seen = run.log.refresh()
    first, second = (protocol.submit(run.log, launcher="local", code="c", bounds={}, seen=seen) for _ in range(2))
    assert (second, run.log.refresh().submitted) == (None, first)


@pytest.mark.parametrize("left", ["run.json", "log/00000007.json"])
def test_what_a_cut_off_submission_or_removal_left_is_told_with_its_cure(tmp_path, left):
    run = run_root(str(tmp_path / "runs"), "a")
    run.store.put(left, Entry(7, "note", None, "r", "t", 0.0).encode())
    with pytest.raises(SpecError, match=rf"cut off.*gmml rm {run.url} deletes what is left"):
        submit.resume(run)


def test_a_first_local_run_over_few_images_starts_no_more_ranks_than_lanes(tmp_path):
    members = {f"{y}.png": png() for y in range(8)}
    corpus = shard(tmp_path / "few.tar", members)
    job = {
        "name": "few",
        "model": {"width": 8, "depth": 1, "heads": 1, "patch_size": 4},
        "method": {"name": "mae", "decoder_width": 8, "decoder_heads": 1},
        "data": {"corpora": [{"url": corpus}], "image_size": 8},
        "batch": {"size": 16},
        "run": {"steps": 2},
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    profile = {"launcher": "local", "root": str(tmp_path / "runs"), "ranks_per_node": 2}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(profile))
    prepared = prepare.prepare(str(tmp_path / "job.yaml"), cluster=str(tmp_path / "cluster.yaml"))
    assert (prepared.plan.lanes, prepared.plan.ranks_per_node) == (None, 2)
    counted = prepare.with_lanes_counted(prepared)
    assert (counted.plan.lanes, counted.plan.ranks_per_node) == (1, 1)
    assert counted.submission.code is prepared.submission.code
    assert not (tmp_path / "runs").exists()
