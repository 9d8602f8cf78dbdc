"""A submission that is interrupted, comes second or was cut off leaves no job that nobody knows of."""

import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from types import SimpleNamespace

import pytest
import yaml
from click.testing import CliRunner

from gmml_cluster.cli.submit import command
from gmml_cluster.data.corpus.checksums import index_all
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.errors import Fenced, LaunchError, PreflightError, SpecError, StorageError
from gmml_cluster.launch import prepare, submit
from gmml_cluster.launch.checks import existing
from gmml_cluster.launch.local.launcher import LocalLauncher
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.run import protocol
from gmml_cluster.run.ends import consequences
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.log import Draft
from gmml_cluster.run.root import create_run, run_root
from gmml_cluster.run.saving import space
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions
from tests.unit.launch.checks.test_preflight import png, shard


class Scheduler:
    """Takes every job, as number 17."""

    def __init__(self):
        self.queue, self.cancelled, self.names = [], [], []

    def submit(self, submission):
        self.queue.append("17")
        self.names.append(submission.name)
        return "17"

    def poll(self, asked):
        return {job: JobReport("queued" if job in self.queue else "gone") for job in asked}

    def cancel(self, job):
        self.queue.remove(job)
        self.cancelled.append(job)


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
    assert scheduler.cancelled == ["17"]


def test_of_two_submits_that_judged_the_same_history_one_is_appended(run):
    seen = run.log.refresh()
    first, second = (protocol.submit(run.log, launcher="local", code="c", bounds={}, seen=seen) for _ in range(2))
    assert (second, run.log.refresh().submitted) == (None, first)


@pytest.mark.parametrize("left", ["run.json", "log/00000007.json"])
def test_what_a_cut_off_submission_or_removal_left_is_reported_with_its_cure(tmp_path, left):
    run = run_root(str(tmp_path / "runs"), "a")
    run.store.put(left, Entry(7, "note", None, "r", "t", 0.0).encode())
    with pytest.raises(SpecError, match=rf"cut off.*gmml rm {run.url} deletes what is left"):
        submit.resume(run)


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Job file and profile of a tiny run on a scheduler that takes every job."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    corpus = shard(tmp_path / "few.tar", {f"{y}.png": png() for y in range(8)})
    spec = {**submissions.TINY, "name": "few"}
    spec["data"] = {"corpora": [{"url": corpus}], "image_size": 8}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    profile = {"launcher": "local", "root": str(tmp_path / "runs"), "ranks_per_node": 2}
    (tmp_path / "cluster.yaml").write_text(yaml.safe_dump(profile))
    return str(tmp_path / "job.yaml"), str(tmp_path / "cluster.yaml")


@pytest.fixture
def scheduler(monkeypatch):
    made = Scheduler()
    monkeypatch.setattr(LocalLauncher, "submit", lambda self, submission: made.submit(submission))
    monkeypatch.setattr(LocalLauncher, "poll", lambda self, asked: made.poll(asked))
    return made


def test_of_several_first_submissions_at_once_one_starts_and_the_others_report_that_it_is_queued(job, scheduler):
    path, cluster = job
    ready = Barrier(4)

    def first(_):
        prepared = prepare.prepare(path, cluster=cluster)
        ready.wait()
        return submit.submit(prepared)

    with ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(first, range(4)))
    assert sorted(outcome.action for outcome in outcomes) == ["already"] * 3 + ["submitted"]
    assert scheduler.queue == ["17"]


@pytest.mark.parametrize("meanwhile", ["the job claims", "another submits"])
def test_a_new_run_stays_where_the_scheduler_took_its_job_though_the_answer_was_lost(job, monkeypatch, meanwhile):
    """Found by the simulation: the run was deleted under its job."""

    def lost(self, submission):
        run = run_root(submission.root, submission.name)
        if meanwhile == "the job claims":
            protocol.claim(run.log, submit=submission.token, job="17", restart=0, topology={}, machine={})
        else:
            protocol.submit(run.log, launcher="local", code="c", bounds={})
        raise LaunchError("sbatch: timed out")

    monkeypatch.setattr(LocalLauncher, "submit", lost)
    prepared = prepare.prepare(job[0], cluster=job[1])
    with pytest.raises(LaunchError):
        submit.submit(prepared)
    run = run_root(prepared.submission.root, "few")
    assert run.log.refresh().stopped is None
    assert "spec.yaml" in [found.name for found in run.store.list_objects()]


def test_a_job_whose_new_run_was_removed_claims_nothing(job, monkeypatch):
    tokens = []

    def lost(self, submission):
        tokens.append(submission.token)
        raise LaunchError("sbatch: timed out")

    monkeypatch.setattr(LocalLauncher, "submit", lost)
    prepared = prepare.prepare(job[0], cluster=job[1])
    with pytest.raises(LaunchError):
        submit.submit(prepared)
    run = run_root(prepared.submission.root, "few")
    assert run.store.list_objects() == []
    with pytest.raises(Fenced):
        protocol.claim(run.log, submit=tokens[0], job="17", restart=0, topology={}, machine={})


def test_a_submission_that_is_being_made_is_waited_for(tmp_path, monkeypatch):
    run = run_root(str(tmp_path / "runs"), "a")
    run.store.put("run.json", json.dumps({"time": time.time()}).encode())
    looks = []

    def look(seconds):
        looks.append(seconds)
        run.log.append(lambda history: Draft("open", None, {}, run="r"))

    monkeypatch.setattr(existing, "time", SimpleNamespace(sleep=look, time=time.time))
    assert existing.opened(run).run == "r"
    assert len(looks) == 1


def test_a_renamed_run_continues_under_its_new_name_and_its_log_records_it(job, scheduler):
    path, cluster = job
    run = submit.submit(prepare.prepare(path, cluster=cluster)).run
    scheduler.queue.clear()
    os.rename(run.url, f"{run.url}-bak")
    moved = run_root(run.root, "few-bak")
    assert submit.resume(moved).action == "resumed"
    assert scheduler.names == ["few", "few-bak"]
    assert moved.log.refresh().location == moved.url


def test_a_run_that_was_renamed_under_its_job_is_refused(job, scheduler):
    path, cluster = job
    run = submit.submit(prepare.prepare(path, cluster=cluster)).run
    os.rename(run.url, f"{run.url}-bak")
    for take_over in (False, True):
        with pytest.raises(SpecError, match=f"was moved or renamed while job 17 works on it at {run.url}"):
            submit.resume(run_root(run.root, "few-bak"), take_over=take_over)
    assert scheduler.queue == ["17"]


def test_a_copy_is_not_resumed(job, scheduler, tmp_path):
    path, cluster = job
    run = submit.submit(prepare.prepare(path, cluster=cluster)).run
    shutil.copytree(run.url, tmp_path / "copies" / "few")
    with pytest.raises(SpecError, match="is a copy of the run at"):
        submit.resume(run_root(str(tmp_path / "copies"), "few"), take_over=True)
    assert scheduler.queue == ["17"]


@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_name_of_a_cluster_does_not_mean_this_machine(job, empty):
    with pytest.raises(SpecError, match=r"--cluster: .* is no name of a profile; name one, or leave the option out"):
        prepare.prepare(job[0], cluster=empty)


def test_a_first_local_run_over_few_images_starts_no_more_ranks_than_lanes(job, tmp_path):
    prepared = prepare.prepare(job[0], cluster=job[1])
    assert (prepared.plan.lanes, prepared.plan.ranks_per_node) == (None, 2)
    counted = prepare.with_lanes_counted(prepared)
    assert (counted.plan.lanes, counted.plan.ranks_per_node) == (1, 1)
    assert counted.submission.code is prepared.submission.code
    assert not (tmp_path / "runs").exists()


def test_what_the_plan_found_worth_knowing_is_part_of_a_real_submission(job, scheduler):
    prepared = prepare.prepare(job[0], cluster=job[1])
    assert any("no index for 1 of 1 shard" in note for note in prepared.plan.notes)
    assert submit.submit(prepared).notes == prepare.with_lanes_counted(prepared).plan.notes
    assert submit.submit(prepared).notes == ()


def test_a_job_whose_corpus_holds_no_sample_by_its_index_is_refused_before_it_is_planned(tmp_path):
    corpus = shard(tmp_path / "words.tar", {"1.txt": b"words"})
    assert all(each.made for each in index_all(list_shards(corpus), None))
    spec = {**submissions.TINY, "name": "words", "data": {"corpora": [{"url": corpus}], "image_size": 8}}
    (tmp_path / "words.yaml").write_text(yaml.safe_dump(spec))
    done = CliRunner().invoke(command, [str(tmp_path / "words.yaml"), "--dry-run"])
    assert isinstance(done.exception, PreflightError)
    assert done.exception.exit_code == 3
    assert f"data.corpora.0.url: {corpus} holds no sample; " in str(done.exception)
    assert "; images are members named .jpg" in str(done.exception)


def test_a_disk_with_room_for_fewer_checkpoints_than_are_kept_is_a_note(job, monkeypatch):
    size = prepare.prepare(job[0], cluster=job[1]).plan.checkpoint_bytes
    for room, noted in ((4 * size, False), (4 * size - 1, True)):  # three are kept, and the next one comes first
        monkeypatch.setattr(space, "free_bytes", lambda url, room=room: room)
        notes = prepare.prepare(job[0], cluster=job[1]).plan.notes
        assert any("and 4 checkpoints take" in note for note in notes) == noted


def test_nodes_that_the_run_avoids_go_to_the_scheduler_until_a_person_takes_them_again(
    job, scheduler, tmp_path, monkeypatch
):
    path, cluster = job
    excluded = []
    monkeypatch.setattr(LocalLauncher, "submit", lambda self, given: excluded.append(given.excluded) or "17")
    submit.submit(prepare.prepare(path, cluster=cluster, overrides=["retries.failures=5"]))
    run = run_root(str(tmp_path / "runs"), "few")
    history = run.log.refresh()
    assert history.submit.bounds["retries"] == {"failures": 5, "outages": 20, "errors": 2, "longest_pause_s": 600.0}
    claim = protocol.claim(run.log, submit=history.submitted, job="17", restart=0, topology={}, machine={})
    protocol.end(run.log, claim.attempt, "hardware", node="n3")
    consequences.draw(run.log, history.submitted)
    assert prepare.prepare(path, cluster=cluster).submission.excluded == ("n3",)
    submit.resume(run)
    submit.resume(run, all_nodes=True)
    submit.resume(run)
    assert excluded == [(), ("n3",), (), ()]
