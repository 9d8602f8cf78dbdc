"""`gmml wait` returns when runs have ended, and its exit code says how."""

import itertools

import pytest
from click.testing import CliRunner

from gmml_cluster.cli import wait
from gmml_cluster.cli.main import group
from gmml_cluster.launch.jobs import Jobs, refs_of
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import follow
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run
from tests.fixtures.outputs import checked


def claimed(root, name):
    run = create_run(root, name, {}, {"spec": "0", "code": "0", "versions": {}})
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    protocol.queued(run.log, token, "j")
    return run, protocol.claim(run.log, submit=token, job="j", restart=0, topology={}, machine={}).attempt


@pytest.fixture
def jobs(monkeypatch):
    """States that the launcher reports, one a look, the last of them for good."""

    def report(*states):
        left = itertools.chain(states, itertools.repeat(states[-1]))

        def poll(histories):
            found = JobReport(next(left))
            return {run: Jobs(dict.fromkeys(refs_of(history), found)) for run, history in histories.items()}

        monkeypatch.setattr(follow, "poll", poll)
        monkeypatch.setattr(follow, "poll_one", lambda name, history: poll({name: history})[name])
        monkeypatch.setattr(wait.time, "sleep", lambda seconds: None)

    return report


def called(root, *arguments):
    done = CliRunner().invoke(group, ["wait", *arguments, "--root", root, "--json"], standalone_mode=False)
    (document,) = checked("wait", done.stdout)
    return done.return_value, {run["run"]: (run["outcome"], run["problem"]) for run in document["runs"]}


def test_it_returns_when_all_have_finished(tmp_path, jobs):
    for name in ("one", "other"):
        run, attempt = claimed(str(tmp_path), name)
        protocol.end(run.log, attempt, "finished", step=9)
    jobs("running", "gone")
    assert called(str(tmp_path), "one", "other") == (0, {"one": ("finished", ""), "other": ("finished", "")})


def test_a_run_that_ended_otherwise_is_named_with_its_cause(tmp_path, jobs):
    run, attempt = claimed(str(tmp_path), "one")
    protocol.end(run.log, attempt, "error", message="bang", rank=1, host="n1")
    jobs("gone")
    code, outcomes = called(str(tmp_path), "one")
    assert (code, outcomes["one"][0]) == (5, "ended")
    assert "attempt 1 ended with error: rank 1 on n1: bang" in outcomes["one"][1]


def test_it_gives_up_in_time_with_a_code_of_its_own(tmp_path, jobs):
    claimed(str(tmp_path), "one")
    jobs("running")
    assert called(str(tmp_path), "one", "--timeout", "0") == (6, {"one": ("at_work", "")})


def test_people_read_a_line_a_run(tmp_path, jobs):
    claimed(str(tmp_path), "one")
    jobs("running")
    done = CliRunner().invoke(group, ["wait", "one", "--timeout", "0", "--root", str(tmp_path)], standalone_mode=False)
    assert done.stdout == "one: still at work\n"
