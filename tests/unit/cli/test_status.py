"""What `gmml status` prints: a line a run, or a page on one."""

import json
import socket
import time

import pytest
from click.testing import CliRunner

from gmml_cluster.cli import status as page_of
from gmml_cluster.cli.status import command
from gmml_cluster.launch.jobs import Jobs, refs_of
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import status as statuses
from gmml_cluster.run import protocol
from gmml_cluster.run.ends import consequences, failures
from gmml_cluster.run.root import create_run, metrics_stem


def shown(root, *names):
    done = CliRunner().invoke(command, [*names, "--root", str(root)])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def jobs(monkeypatch):
    """What the schedulers report, instead of asking them."""

    def report(state, **details):
        found = JobReport(state, **details)
        monkeypatch.setattr(
            statuses, "poll", lambda runs: {u: Jobs(dict.fromkeys(refs_of(h), found)) for u, h in runs.items()}
        )

    return report


@pytest.fixture
def run(tmp_path):
    return create_run(str(tmp_path), "tryit", {}, {"spec": "0", "code": "0", "versions": {}})


def claimed(run, job="j", **versions):
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    protocol.queued(run.log, token, job)
    topology, machine = {"ranks": 8}, {"host": "n7", "nodes": 2, **versions}
    return protocol.claim(run.log, submit=token, job=job, restart=0, topology=topology, machine=machine).attempt


def training(run, *, last=563, steps=1300):
    number = claimed(run)
    protocol.pin(run.log, number, {"corpora": "0", "layout": {}, "steps": steps, "decoder": "d"})
    protocol.begin(run.log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    protocol.commit(run.log, number, step=119, manifest="m", size=1, seconds=0.0)
    lines = [
        {"step": step, "loss": 0.5, "batch": 64, "step_s": 0.2, "data_wait_s": 0.05}
        for step in range(last - 9, last + 1)
    ]
    run.store.put(f"{metrics_stem(number)}-000000.jsonl", "\n".join(map(json.dumps, lines)).encode())
    return number


@pytest.mark.parametrize(
    ("cause", "details", "line"),
    [
        ("not_finite", {}, "attempt 1 ended with not_finite"),
        ("notice", {"step": 3}, "attempt 1 ended with notice"),
        ("error", {"message": "bang\nat line 3"}, "bang"),
    ],
)
def test_a_run_that_ended_names_its_message_or_else_its_cause(tmp_path, run, jobs, cause, details, line):
    jobs("gone")
    protocol.end(run.log, claimed(run), cause, **details)
    assert f"\n  {line}; gmml resume tryit continues it\n" in shown(tmp_path, "tryit")
    assert f"\ntryit: {line}; gmml resume tryit continues it\n" in shown(tmp_path)


def test_a_run_whose_job_is_gone_before_any_attempt_says_that_nothing_works_on_it(tmp_path, run):
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    protocol.queued(run.log, token, f"{socket.gethostname()}:tryit:{token}")
    assert "\ntryit: nothing works on it; " in shown(tmp_path)


def test_a_live_run_shows_how_far_it_is(tmp_path, run, jobs):
    jobs("running")
    training(run)
    columns = dict(zip(page_of._COLUMNS, shown(tmp_path).splitlines()[1].split("  "), strict=False))
    assert columns["RUN"] == "tryit"
    cells = [cell.strip() for cell in shown(tmp_path).splitlines()[1].split("  ") if cell.strip()]
    assert cells[:9] == ["tryit", "running", "563", "43 %", "0.5", "320", "25 %", "0:02:27", "119"]
    assert cells[-1] == "attempt 1"


def test_the_page_of_a_live_run_has_attempts_nodes_checkpoint_and_files(tmp_path, run, jobs):
    jobs("running")
    training(run)
    page = shown(tmp_path, "tryit")
    assert "  step         563 of 1300 (43 % done)\n" in page
    assert f"  checkpoint   step 119, {run.url}/checkpoints/00000119-0001\n" in page
    assert "8 ranks on 2 nodes from n7  at work\n" in page
    assert f"  files        {run.url}: " in page


def test_the_page_says_from_which_attempt_on_another_version_made_the_steps(tmp_path, run, jobs):
    jobs("gone")
    for version in ("2.12.0", "2.13.0"):
        protocol.end(run.log, claimed(run, torch=version), "lost")
    assert "\n  platform     from attempt 2 on torch is 2.13.0 and was 2.12.0\n" in shown(tmp_path, "tryit")


def test_an_attempt_without_a_checkpoint_of_its_own_has_no_last_step():
    attempt = {"attempt": 2, "topology": {"ranks": 1}, "nodes": 1, "host": "n7", "first_step": 120, "last_step": None}
    line = page_of._attempt_line({**attempt, "cause": None, "started": None})
    assert line.endswith("  from step 120  1 rank on 1 node from n7  at work")


def test_only_runs_that_train_are_asked_for_their_metrics(tmp_path, run, jobs, monkeypatch):
    jobs("gone")
    protocol.end(run.log, training(run), "cancelled", step=119)
    monkeypatch.setattr(statuses, "read_progress", lambda *_: pytest.fail("asked"))
    assert "tryit" in shown(tmp_path)


def test_a_queued_run_says_why_it_waits_and_when_it_may_start(tmp_path, run, jobs):
    jobs("queued", reason="Resources", expected_start=time.time() + 3600)
    protocol.queued(run.log, protocol.submit(run.log, launcher="local", code="0", bounds={}), "j")
    assert "tryit: queued: Resources; expected to start " in shown(tmp_path)
    assert "  queued: Resources; expected to start " in shown(tmp_path, "tryit")


def test_a_copied_run_is_named_as_one(tmp_path, run, jobs):
    import shutil

    jobs("running")
    training(run)
    shutil.copytree(tmp_path / "tryit", tmp_path / "other" / "tryit")
    page = shown(tmp_path / "other", "tryit")
    assert "is a copy of the run at " in page
    assert "gmml resume" not in page, "what is resumed by that name may be the original"


def test_a_root_that_does_not_exist_is_a_fault(tmp_path):
    done = CliRunner().invoke(command, ["--root", str(tmp_path / "typo")])
    assert done.exception is not None
    assert "does not exist" in str(done.exception)


def test_a_run_whose_tries_are_spent_says_so_and_names_the_nodes_that_it_avoids(tmp_path, run, jobs):
    jobs("gone")
    submit = protocol.submit(run.log, launcher="slurm", code="0", bounds={"retries": {"failures": 2}})
    protocol.queued(run.log, submit, "j")
    for restart in range(2):
        claim = protocol.claim(run.log, submit=submit, job="j", restart=restart, topology={}, machine={})
        protocol.end(run.log, claim.attempt, "hang", node="n3")
    consequences.draw(run.log, submit)
    reason = "no new checkpoint in 2 attempts (2 x hang); retries.failures is 2"
    page = shown(tmp_path, "tryit")
    assert page.startswith(
        f"tryit: failed\n  attempt 2 ended with hang; gave up: {reason}; gmml resume tryit continues it\n"
    )
    assert "\n  retries      2 of 2 failures since the last checkpoint\n" in page
    assert "\n  avoids       n3: attempt 1 ended with hang and attempt 2 ended with hang\n" in page
    assert f"\ntryit: attempt 2 ended with hang; gave up: {reason}; gmml resume tryit continues it\n" in shown(tmp_path)


def test_the_original_error_s_traceback_comes_first_and_what_it_caused_in_a_line(tmp_path, run, jobs):
    jobs("gone")
    number = claimed(run)
    own = {
        "rank": 5,
        "host": "n2",
        "kind": "own",
        "cause": "error",
        "message": "ValueError: x",
        "traceback": "T:\n  f\n",
    }
    lost = {**own, "host": "n1", "kind": "lost_peer", "message": "RuntimeError: closed by peer"}
    failures.write(run.store, number, [own, *({**lost, "rank": rank} for rank in range(5))])
    protocol.end(run.log, number, "error", message="ValueError: x", rank=5, host="n2")
    assert shown(tmp_path, "tryit").splitlines()[1:6] == [
        "  ValueError: x; gmml resume tryit continues it",
        "    rank 5 on n2:",
        "      T:",
        "        f",
        "    ranks 0, 1, 2, 3, 4 on n1, in consequence: RuntimeError: closed by peer",
    ]


def test_what_the_launcher_proved_is_said_and_not_what_it_did_to_the_others(tmp_path, run, jobs):
    jobs("gone")
    number = claimed(run)
    protocol.end(run.log, number, "lost", message="RuntimeError: closed by peer", rank=0, host="n1")
    protocol.resolve_cause(run.log, number, "killed", "rank 1: signal SIGKILL")
    assert "\n  rank 1: signal SIGKILL; gmml resume tryit continues it\n" in shown(tmp_path, "tryit")
