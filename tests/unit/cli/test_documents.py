"""What commands on a recorded run print with `--json` is valid by their schemas, and nothing else is on stdout."""

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.main import group
from gmml_cluster.launch import jobs
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run
from tests.fixtures.outputs import checked


class Gone:
    """A launcher whose jobs are all gone."""

    def poll(self, asked):
        return dict.fromkeys(asked, JobReport("gone"))

    def output(self, job, bounds, *, restart, rank):
        return None


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(jobs, "launcher_named", lambda name: Gone())
    root = str(tmp_path / "runs")
    run = create_run(root, "tryit", {}, {"spec": "0", "code": "0", "versions": {}})
    token = protocol.submit(run.log, launcher="local", code="0", bounds={})
    protocol.queued(run.log, token, "h:0:t")
    attempt = protocol.claim(run.log, submit=token, job="h:0:t", restart=0, topology={}, machine={}).attempt
    run.store.put("attempts/0001/rank-0000-000000.log", b"")
    protocol.end(run.log, attempt, "error", message="bang", rank=0, host="n1")
    return root


def called(name, *words):
    done = CliRunner().invoke(group, [*words, "--json"], standalone_mode=False)
    assert done.exception is None, done.exception
    return checked(name, done.stdout)


def test_cancel_says_what_it_did_and_says_so_again(root):
    assert called("cancel", "cancel", "tryit", "--root", root)[0]["runs"][0]["action"] == "stopped"
    assert called("cancel", "cancel", "tryit", "--root", root)[0]["runs"][0]["action"] == "already"


def test_logs_have_the_end_of_the_attempt_and_its_text(root):
    (found,) = called("logs", "logs", "tryit", "--root", root)
    assert (found["attempt"], found["rank"], found["text"]) == (1, 0, "")
    assert found["ended"] == "attempt 1 ended with error: rank 0 on n1: bang"


def test_the_log_is_a_line_an_entry_with_a_version(root):
    assert [entry["slot"] for entry in called("log", "log", "tryit", "--root", root)] == list(range(5))
    assert called("log-check", "log", "tryit", "--check", "--root", root)[0]["faults"] == []


def test_a_listing_has_an_error_in_place_of_a_run_that_cannot_be_read(root, tmp_path):
    broken = create_run(root, "broken", {}, {"spec": "0", "code": "0", "versions": {}})
    broken.store.put("log/00000001.json", b"{")
    found = called("status", "status", "--root", root)
    assert [each.get("run") or each["error"] for each in found] == ["tryit", "StorageError"]
    assert [each.get("run") or each["error"] for each in called("top", "top", "--root", root)] == [
        "tryit",
        "StorageError",
    ]


def test_a_removal_asks_nothing_and_names_what_is_gone(root):
    (found,) = called("rm", "rm", "tryit", "--yes", "--root", root)
    assert found["run"] == "tryit"
    assert called("status", "status", "--root", root) == []


def test_a_new_job_file_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert called("new", "new", "tiny") == [{"version": 1, "file": "tiny.yaml"}]
