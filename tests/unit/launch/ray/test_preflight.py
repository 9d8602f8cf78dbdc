"""What the preflight of a Ray cluster makes of what a look at it finds, and what that look finds on a node."""

import itertools
import json
import platform
import time
from types import SimpleNamespace

import pytest

pytest.importorskip("ray")

import ray
from ray.runtime_env import RuntimeEnv

from gmml_cluster.errors import LaunchError
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.ray import look, preflight
from gmml_cluster.launch.ray.requests import MARK, marker
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions

FINE = {"python": platform.python_version(), "ray": ray.__version__, "ranks": [2, 2], "faults": []}


def submission(root="/runs", nodes="2", ranks=2, **section) -> Submission:
    profile = ClusterProfile.model_validate(
        {"launcher": "ray", "root": str(root), "ray": {"address": "http://head:8265", **section}}
    )
    code = Snapshot("d1ge5t", b"zip")
    return submissions.submission(profile, nodes=nodes, ranks_per_node=ranks, code=code)


def faults(made=None, **found):
    return list(preflight.judged({**FINE, **found}, made or submission()))


def test_a_cluster_that_fits_has_no_fault():
    assert faults() == []


@pytest.mark.parametrize(("what", "other"), [("ray", "2.1.0"), ("python", "3.8.1")])
def test_another_version_there_is_refused_with_both_numbers(what, other):
    (fault,) = faults(**{what: other})
    assert fault.where == "ray.address"
    assert f"is {other} on the cluster and {FINE[what]} here" in fault.problem


def test_more_ranks_than_the_nodes_can_ever_hold_are_refused():
    (fault,) = faults(ranks=[2, 1])
    assert fault.where == "resources.nodes"
    assert "4 ranks of 1 CPU at least; the cluster can never hold more than 3" in fault.problem
    assert faults(submission(nodes="1..4"), ranks=[2, 0]) == []


def test_a_cluster_that_adds_nodes_may_have_none_yet():
    assert faults(submission(autoscales=True), ranks=[]) == []


def test_what_is_wrong_on_a_node_is_reported_as_it_was_found():
    (fault,) = faults(faults=[["secrets", "KEY is not set on node n1", "set it"]])
    assert (fault.where, fault.problem, fault.hint) == ("secrets", "KEY is not set on node n1", "set it")


def test_strict_placement_counts_one_rank_a_node():
    (fault,) = faults(submission(nodes="2", placement="STRICT_SPREAD"), ranks=[4, 4])
    assert "more than 2 by STRICT_SPREAD" in fault.problem


def here(tmp_path, imports=(), secrets=()):
    return look.faults_here(str(tmp_path / "runs"), "look-1", imports, secrets)


def test_a_node_that_shares_the_folder_and_lacks_nothing_has_no_fault(tmp_path):
    marker(tmp_path, "look-1").touch()
    assert here(tmp_path, imports=["json"]) == []
    assert [path.name for path in tmp_path.iterdir()] == [".gmml-look-1"]


def test_a_node_names_the_package_the_secret_and_the_folder_that_it_lacks(tmp_path, monkeypatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    found = here(tmp_path, imports=["no_such_torch"], secrets=["NO_SUCH_KEY"])
    assert [where for where, _, _ in found] == ["launcher", "secrets", str(tmp_path / "runs")]
    assert "has no no_such_torch" in found[0][1]
    assert "NO_SUCH_KEY is not set on node" in found[1][1]
    assert "does not see the folder of this machine" in found[2][1]
    assert all(hint for _, _, hint in found)


class Client:
    """A job API on which a look prints this and ends like that."""

    def __init__(self, printed, status="SUCCEEDED", message=None):
        self.printed, self.status, self.message = printed, status, message
        self.listed, self.stopped, self.deleted = [], [], []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def submit_job(self, **request):
        self.request = request

    def get_job_status(self, job):
        return SimpleNamespace(value=self.status)

    def get_job_logs(self, job):
        return self.printed

    def get_job_info(self, job):
        return SimpleNamespace(message=self.message)

    def list_jobs(self):
        return self.listed

    def stop_job(self, job):
        self.stopped.append(job)

    def delete_job(self, job):
        self.deleted.append(job)


def test_a_look_is_a_job_with_the_code_and_environment_of_the_run_and_leaves_nothing(tmp_path, monkeypatch):
    client = Client(f"noise\n{MARK}{json.dumps(FINE)}\n")
    monkeypatch.setattr(preflight, "connected", lambda address: client)
    assert preflight.faults_of(submission(tmp_path / "runs", runtime_env={"pip": ["x"]})) == []
    assert client.request["runtime_env"]["pip"] == ["x"]
    assert client.request["submission_id"].startswith("gmml-look-")
    assert list(tmp_path.iterdir()) == []


def test_looks_that_ended_a_while_ago_and_nothing_else_are_removed_from_the_list_of_jobs(tmp_path, monkeypatch):
    client, now = Client(f"{MARK}{json.dumps(FINE)}\n"), time.time() * 1000
    long_ago = now - 3_600_000
    jobs = [("gmml-look-1", long_ago), ("gmml-look-2", now), ("gmml-look-3", None), ("run", long_ago), (None, long_ago)]
    client.listed = [SimpleNamespace(submission_id=job, end_time=ended) for job, ended in jobs]
    monkeypatch.setattr(preflight, "connected", lambda address: client)
    assert preflight.faults_of(submission(tmp_path)) == []
    assert client.deleted == ["gmml-look-1"]


@pytest.mark.parametrize(
    ("printed", "message", "quoted"),
    [
        ("Traceback\nNo module named 'pydantic'", "Job entrypoint failed\nTraceback", "No module named 'pydantic'"),
        ("", "runtime_env setup failed\nERROR: No matching distribution found", "No matching distribution found"),
        ("", None, "it printed nothing"),
    ],
)
def test_a_look_that_fails_quotes_the_last_line(tmp_path, monkeypatch, printed, message, quoted):
    client = Client(printed, "FAILED", message)
    monkeypatch.setattr(preflight, "connected", lambda address: client)
    (fault,) = preflight.faults_of(submission(tmp_path))
    assert fault.problem.endswith(quoted)


def test_a_runtime_environment_that_ray_does_not_take_is_refused_in_its_words(tmp_path, monkeypatch):
    client = Client("")
    monkeypatch.setattr(client, "submit_job", lambda **request: RuntimeEnv(**request["runtime_env"]))
    monkeypatch.setattr(preflight, "connected", lambda address: client)
    (fault,) = preflight.faults_of(submission(tmp_path, runtime_env={"pip": {"packages": ["x"], "misspelt": 1}}))
    assert fault.where == "ray.runtime_env"
    assert "runtime_env['pip'] can only have these fields: packages" in fault.problem


@pytest.mark.parametrize(("start", "limit"), [("20 s", "300 s"), ("30 min", "1800 s")])
def test_a_look_that_does_not_end_is_given_up_when_no_rank_could_have_started_either(
    tmp_path, monkeypatch, start, limit
):
    client, clock = Client("", "PENDING"), itertools.count(step=100.0)
    monkeypatch.setattr(preflight, "connected", lambda address: client)
    stopped = SimpleNamespace(monotonic=lambda: next(clock), sleep=lambda s: None, time=time.time)
    monkeypatch.setattr(preflight, "time", stopped)
    with pytest.raises(LaunchError, match=f"has not ended within {limit}"):
        preflight.faults_of(submission(tmp_path, start=start))
    assert client.stopped == [client.request["submission_id"]]
