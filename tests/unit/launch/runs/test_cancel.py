"""A run is ended without losing its last save, and deleted only where surely nothing works on it."""

import os
import shutil

import pytest

from gmml_cluster.errors import LaunchError, SpecError
from gmml_cluster.launch import jobs
from gmml_cluster.launch.after import living
from gmml_cluster.launch.local.lock import Holder, held, lock_path, run_digest, state_folder
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import cancel as commands
from gmml_cluster.launch.runs.cancel import cancel, remove
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run, run_root


class Scheduler:
    """A launcher whose jobs are in the states that a test sets."""

    def __init__(self):
        self.states, self.calls, self.lingering = {}, [], False

    def poll(self, asked):
        return {job: JobReport(self.states[job], lingering=self.lingering) for job in asked}

    def give_notice(self, job):
        self.calls.append(("give_notice", job))

    def cancel(self, job):
        self.calls.append(("cancel", job))


@pytest.fixture
def scheduler(monkeypatch):
    made = Scheduler()
    for module in (jobs, commands):
        monkeypatch.setattr(module, "launcher_named", lambda name: made)
    return made


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return create_run(str(tmp_path / "runs"), "a", {}, {})


def submitted(run, job):
    token = protocol.submit(run.log, launcher="slurm", code="c", bounds={})
    protocol.queued(run.log, token, job)
    return token


def claimed(run, job):
    token = submitted(run, job)
    return protocol.claim(run.log, submit=token, job=job, restart=0, topology={}, machine={}).attempt


@pytest.mark.parametrize("state", ["running", "unknown"])
def test_an_attempt_that_lives_is_given_notice_and_its_own_time_to_save(run, scheduler, state):
    claimed(run, "17")
    scheduler.states = {"17": state}
    assert "job 17 saves and leaves" in cancel(run).done
    assert scheduler.calls == [("give_notice", "17")]
    assert run.log.refresh().stopped is not None


@pytest.mark.parametrize("state", ["queued", "running", "unknown"])
def test_a_job_that_has_not_claimed_is_cancelled_again_until_it_is_known_to_be_gone(run, scheduler, state):
    submitted(run, "17")
    scheduler.states = {"17": state}
    cancel(run), cancel(run)
    assert scheduler.calls == [("cancel", "17")] * 2
    scheduler.states = {"17": "gone"}
    assert "was stopped already" in cancel(run).done
    assert [entry.kind for entry in run.log.read()].count("stop") == 1


def test_a_job_that_waits_again_after_a_lost_node_is_cancelled_as_no_rank_can_receive_a_notice(run, scheduler):
    claimed(run, "17")
    scheduler.states = {"17": "queued"}
    assert "job 17 is cancelled" in cancel(run).done
    assert scheduler.calls == [("cancel", "17")]


def out_of_reach(job):
    raise LaunchError("SLURM is out of reach")


def test_where_the_scheduler_is_out_of_reach_the_stop_in_the_log_ends_the_attempt(run, scheduler):
    attempt = claimed(run, "17")
    scheduler.states["17"] = "unknown"
    scheduler.give_notice = out_of_reach
    assert "it reads the stop from the log, saves and leaves" in cancel(run).done
    assert run.log.refresh().stopped is not None

    def leaves_first(job):
        protocol.end(run.log, attempt, "cancelled")
        out_of_reach(job)

    scheduler.give_notice = leaves_first
    assert "attempt 1 has saved and left" in cancel(run).done


def test_a_queued_job_that_cannot_be_cancelled_is_said_to_claim_nothing(run, scheduler):
    submitted(run, "17")
    scheduler.states["17"] = "queued"
    scheduler.cancel = out_of_reach
    with pytest.raises(LaunchError, match="job 17 claims nothing once it starts"):
        cancel(run)
    assert run.log.refresh().stopped is not None


def test_a_successor_in_the_queue_is_cancelled_and_the_attempt_before_it_saves(run, scheduler):
    claimed(run, "17")
    submitted(run, "18")
    scheduler.states = {"17": "running", "18": "queued"}
    cancel(run)
    assert sorted(scheduler.calls) == [("cancel", "18"), ("give_notice", "17")]


@pytest.mark.parametrize(
    ("state", "message"),
    [("unknown", "job 17 is gone cannot be asked from here"), ("running", "job 17 is still leaving")],
)
def test_a_stopped_run_is_deleted_only_when_its_job_is_known_to_be_gone(run, scheduler, state, message):
    protocol.end(run.log, claimed(run, "17"), "cancelled")
    protocol.stop(run.log, "cancelled by a person")
    scheduler.states = {"17": state}
    with pytest.raises(SpecError, match=f"it is stopped, but .*{message}"):
        remove(run)
    scheduler.states = {"17": "gone"}
    remove(run)
    assert run.store.list_objects() == []


def test_a_finished_run_can_be_deleted_where_its_scheduler_is_out_of_reach(run, scheduler):
    protocol.end(run.log, claimed(run, "17"), "finished")
    scheduler.states = {"17": "unknown"}
    remove(run)
    assert run.store.list_objects() == []


def test_the_scripts_and_logs_of_its_jobs_go_with_a_deleted_run(run, scheduler, tmp_path):
    folder = tmp_path / "jobs"
    for job in ("17", "18"):
        (folder / job).mkdir(parents=True)
    token = protocol.submit(run.log, launcher="slurm", code="c", bounds={"folder": f"{folder}/%j"})
    protocol.queued(run.log, token, "17")
    scheduler.states = {"17": "gone"}
    remove(run)
    assert os.listdir(folder) == ["18"]


def test_what_this_machine_keeps_of_a_deleted_run_goes_with_it(run, scheduler):
    digest = run_digest(run.root, run.name)
    (state_folder() / digest / "token").mkdir(parents=True)
    lock_path(digest).touch()
    remove(run)
    assert os.listdir(state_folder()) == []


@pytest.fixture
def copy(run, scheduler, tmp_path):
    """A copy of a run whose job 17 runs."""
    submitted(run, "17")
    scheduler.states = {"17": "running"}
    shutil.copytree(run.url, tmp_path / "copies" / "a")
    return run_root(str(tmp_path / "copies"), "a")


def test_a_cancel_of_a_copy_is_refused_and_the_job_of_the_original_not_asked(copy, scheduler):
    with pytest.raises(SpecError, match="is a copy of the run at"):
        cancel(copy)
    assert scheduler.calls == []


def test_a_copy_can_be_deleted_while_the_original_runs_and_takes_nothing_of_it_along(run, scheduler, tmp_path):
    folder = tmp_path / "jobs" / "17"
    folder.mkdir(parents=True)
    token = protocol.submit(run.log, launcher="slurm", code="c", bounds={"folder": f"{tmp_path}/jobs/%j"})
    protocol.queued(run.log, token, "17")
    scheduler.states = {"17": "running"}
    shutil.copytree(run.url, tmp_path / "copies" / "a")
    copy = run_root(str(tmp_path / "copies"), "a")
    remove(copy)
    assert copy.store.list_objects() == []
    assert folder.exists()
    assert run.log.refresh().submit.job == "17"


def test_a_run_that_a_process_here_still_works_on_is_not_deleted_whatever_its_log_says(run, scheduler):
    protocol.end(run.log, claimed(run, "17"), "finished")
    scheduler.states = {"17": "gone"}
    with (
        held(run.root, run.name, Holder("here", 7, "t"), wait_s=0),
        pytest.raises(SpecError, match=r"process 7 on here, or a rank of it, still works on it"),
    ):
        remove(run)
    remove(run)
    assert run.store.list_objects() == []


@pytest.mark.parametrize("still_writes", [True, False])
def test_an_end_that_another_process_wrote_is_no_proof_that_the_ranks_are_gone(
    run, scheduler, monkeypatch, still_writes
):
    attempt = claimed(run, "17")
    protocol.end(run.log, attempt, "lost", proof="exit code 0")
    scheduler.states = {"17": "gone"}
    monkeypatch.setattr(living, "WATCH_S", 0.1)
    monkeypatch.setattr(living, "_LOOK_S", 0.0)
    objects = living._objects
    parts = iter(range(1000))

    def written(run, attempt):
        if still_writes:
            run.store.put(f"attempts/0001/metrics-{next(parts):05d}.jsonl", b"")
        return objects(run, attempt)

    monkeypatch.setattr(living, "_objects", written)
    if still_writes:
        with pytest.raises(SpecError, match="attempt 1 of job 17 still writes to it although its job is gone"):
            remove(run)
    else:
        remove(run)
        assert run.store.list_objects() == []


def test_a_run_whose_ranks_outlived_their_supervisor_is_not_deleted(run, scheduler):
    submitted(run, "17")
    scheduler.states, scheduler.lingering = {"17": "gone"}, True
    with pytest.raises(SpecError, match="still leaving"):
        remove(run)


def test_a_run_that_was_moved_is_cancelled_and_a_copy_of_one_is_not(run, scheduler, tmp_path):
    claimed(run, "17")
    scheduler.states = {"17": "running"}
    shutil.copytree(run.url, tmp_path / "copies" / "a")
    with pytest.raises(SpecError, match="is a copy of the run at"):
        cancel(run_root(str(tmp_path / "copies"), "a"))
    shutil.rmtree(tmp_path / "copies")
    (tmp_path / "mounted").mkdir()
    os.rename(run.url, tmp_path / "mounted" / "a")
    assert cancel(run_root(str(tmp_path / "mounted"), "a")).done.startswith("stopping; job 17 saves and leaves")
    assert scheduler.calls == [("give_notice", "17")]
