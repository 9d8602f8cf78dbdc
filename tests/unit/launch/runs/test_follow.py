"""Who follows a run on this machine sees it from its first line on, each line once."""

import socket

from gmml_cluster.launch.jobs import JobRef, Jobs
from gmml_cluster.launch.local.launcher import LocalJob
from gmml_cluster.launch.local.lock import state_folder
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import follow
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run


def test_a_start_is_followed_before_its_claim_and_after_it(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(run.log, launcher="local", code="c", bounds={})
    job = str(LocalJob(host=socket.gethostname(), run="0" * 16, submit=token))
    protocol.queued(run.log, token, job)
    reports = {JobRef("local", job): JobReport("running")}
    monkeypatch.setattr(follow, "poll_one", lambda name, history: Jobs(reports))
    monkeypatch.setattr(follow, "LOOK_S", 0.0)
    output = state_folder() / ("0" * 16) / token / "000-rank0000.log"
    output.parent.mkdir(parents=True)
    output.write_text("starts\n")
    texts = follow.follow(run, 0)
    assert next(texts) == "starts\n"
    attempt = protocol.claim(run.log, submit=token, job=job, restart=0, topology={}, machine={}).attempt
    with output.open("a") as file:
        file.write("step 1\n")
    assert next(texts) == "step 1\n"
    protocol.end(run.log, attempt, "finished")
    reports[JobRef("local", job)] = JobReport("gone")
    assert "".join(texts) == ""


def test_a_start_on_slurm_is_shown_by_its_error_file(tmp_path):
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(run.log, launcher="slurm", code="c", bounds={"folder": f"{tmp_path}/jobs/%j"})
    protocol.queued(run.log, token, "17")
    assert follow.start_output(run.log.refresh(), 1) is None
    output = tmp_path / "jobs/17/17_1_log.err"
    output.parent.mkdir(parents=True)
    output.touch()
    assert follow.start_output(run.log.refresh(), 1) == output


def test_who_follows_a_queued_run_reads_what_it_waits_for_and_each_reason_once(tmp_path, monkeypatch):
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(run.log, launcher="slurm", code="c", bounds={"folder": f"{tmp_path}/jobs/%j"})
    protocol.queued(run.log, token, "17")
    answers = iter(
        [*[JobReport("queued", "Priority", 1.7e9)] * 3, JobReport("queued", "held", None), JobReport("gone")]
    )
    monkeypatch.setattr(follow, "poll_one", lambda name, history: Jobs({JobRef("slurm", "17"): next(answers)}))
    monkeypatch.setattr(follow, "LOOK_S", 0.0)
    monkeypatch.setattr(follow, "POLL_S", -1.0)
    first, second = list(follow.follow(run, 0))
    assert first.startswith("gmml: job 17 is queued: Priority, expected to start at 2023-11-1")
    assert second == "gmml: job 17 is queued: held\n"


def test_a_run_whose_store_stayed_out_of_reach_ends_with_the_reason_that_was_kept_here(tmp_path, monkeypatch):
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    protocol.queued(run.log, protocol.submit(run.log, launcher="local", code="c", bounds={}), "h:0:t")
    report = JobReport("gone", "runs: No space left on device")
    monkeypatch.setattr(follow, "poll_one", lambda name, history: Jobs({JobRef("local", "h:0:t"): report}))
    assert follow.ended_without_finishing(run).startswith("runs: No space left on device; see gmml logs a")


def claimed_on_ray(tmp_path, monkeypatch):
    """A run whose only attempt has claimed, and whose job has failed by what Ray says."""
    run = create_run(str(tmp_path / "runs"), "a", {}, {})
    token = protocol.submit(run.log, launcher="ray", code="c", bounds={})
    protocol.queued(run.log, token, "j")
    report = JobReport("gone", "Job entrypoint command failed with exit code 1, last available logs")
    monkeypatch.setattr(follow, "poll_one", lambda name, history: Jobs({JobRef("ray", "j"): report}))
    assert follow.ended_without_finishing(run).startswith("Job entrypoint command failed")
    attempt = protocol.claim(run.log, submit=token, job="j", restart=0, topology={}, machine={}).attempt
    assert follow.ended_without_finishing(run).startswith("Job entrypoint command failed")
    return run, attempt


def test_a_run_whose_log_has_the_end_does_not_end_with_what_its_launcher_says_of_the_job(tmp_path, monkeypatch):
    run, attempt = claimed_on_ray(tmp_path, monkeypatch)
    protocol.end(run.log, attempt, "error", message="ValueError: x")
    assert follow.ended_without_finishing(run).startswith("attempt 1 ended with error: ValueError: x; see")


def test_a_notice_that_nobody_explained_leaves_the_reason_to_the_launcher(tmp_path, monkeypatch):
    run, attempt = claimed_on_ray(tmp_path, monkeypatch)
    protocol.end(run.log, attempt, "notice")
    assert follow.ended_without_finishing(run).startswith("Job entrypoint command failed")
    protocol.resolve_cause(run.log, attempt, "lost", "its worker was killed")
    assert follow.ended_without_finishing(run).startswith("attempt 1 ended with lost: its worker was killed; see")
