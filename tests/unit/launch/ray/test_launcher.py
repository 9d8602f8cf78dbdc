"""The launcher for Ray, with a job API that the tests answer for."""

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gmml_cluster.errors import LaunchError, PreflightError
from gmml_cluster.launch.protocol import JobReport, Queue
from gmml_cluster.launch.ray import client as job_api
from gmml_cluster.launch.ray import launcher as ray_launcher
from gmml_cluster.launch.ray import turns
from gmml_cluster.launch.ray.client import RayJob
from gmml_cluster.launch.ray.launcher import RayLauncher
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions
from tests.fixtures.slurm import free_ports

ADDRESS = "http://head:8265"


CACHE = {"folder": "/scratch", "limit": "9 MiB"}


def submission(nodes="2..4", ranks=2, **ray):
    sections = {"environment": {"A": "it's"}, "node_cache": CACHE, "ray": {"address": ADDRESS} | ray}
    profile = ClusterProfile.model_validate({"launcher": "ray", "root": "/runs", **sections})
    code = Snapshot("d1ge5t", b"zip")
    return submissions.submission(profile, token="tok3n", nodes=nodes, ranks_per_node=ranks, code=code)


def details(submission, status, message=None, metadata=None, start_time=0):
    return SimpleNamespace(
        submission_id=submission,
        job_id=None,
        status=SimpleNamespace(value=status),
        message=message,
        metadata=metadata,
        start_time=start_time,
    )


class JobApi:
    """Knows the jobs that were submitted; a second submission of one id fails as Ray's does."""

    def __init__(self, *known):
        self.jobs = {job.submission_id: job for job in known}
        self.stopped = []

    def submit_job(self, *, submission_id, **request):
        if submission_id in self.jobs:
            raise RuntimeError(f"Request failed with status code 500: {submission_id} already exists")
        self.jobs[submission_id] = details(submission_id, "PENDING")
        self.request = request
        return submission_id

    def get_job_info(self, submission):
        if submission not in self.jobs:
            raise RuntimeError("Request failed with status code 404")
        return self.jobs[submission]

    def list_jobs(self):
        return list(self.jobs.values())

    def stop_job(self, submission):
        self.get_job_info(submission)
        self.stopped.append(submission)


@pytest.fixture
def api(monkeypatch):
    """The job API at every address."""
    made = JobApi()

    class Connected:
        def __init__(self, address, answer_s=0.0):
            pass

        def __enter__(self):
            return made

        def __exit__(self, *_):
            return False

    monkeypatch.setattr(ray_launcher, "connected", Connected)
    return made


def test_a_jobs_id_says_where_it_is():
    assert RayJob.read(f"{ADDRESS}#tok3n") == RayJob(ADDRESS, "tok3n")
    assert str(RayJob(ADDRESS, "tok3n")) == f"{ADDRESS}#tok3n"


def test_every_field_of_the_profile_reaches_the_request():
    made = submission(
        gpus_per_node=2, cpus_per_rank=8, resources={"fast": 1}, labels={"pool": "spot"}, placement="SPREAD",
        start="5 min", namespace="vision", runtime_env={"pip": ["x"], "config": {"setup_timeout_seconds": 60}},
    )  # fmt: skip
    request = json.loads(RayLauncher().script(made))
    for word in (
        "--nodes 2..4", "--ranks-per-node 2", "--placement SPREAD",
        "--resources '{\"CPU\": 8.0, \"GPU\": 1.0, \"fast\": 1.0}'",
        "--labels '{\"pool\": \"spot\"}'", "--root /runs", "--run a-run", "--namespace vision",
    ):  # fmt: skip
        assert word in request["entrypoint"]
    assert request["submission_id"] == "<token>"
    assert request["metadata"] == {"run": "/runs/a-run", "placement": "SPREAD"}
    environment = request["runtime_env"]["env_vars"]
    assert (environment["A"], environment["GMML_GPUS"], environment["GMML_CPUS"]) == ("it's", "2", "8")
    assert environment["GMML_NODE_CACHE"] == '{"folder":"/scratch","limit":"9437184 B"}'
    assert environment["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] == "300"
    assert environment["RAY_kill_child_processes_on_worker_exit"] == "0"
    assert (request["runtime_env"]["pip"], request["runtime_env"]["config"]) == (["x"], {"setup_timeout_seconds": 60})


@pytest.mark.parametrize(
    ("shell", "mode"),
    [({}, "disabled"), ({"RAY_AUTH_TOKEN_PATH": "/t"}, "token"), ({"RAY_AUTH_MODE": "token"}, "token")],
)
def test_the_mode_of_authentication_is_sent_and_no_token(shell, mode, monkeypatch):
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in shell.items():
        monkeypatch.setenv(name, value)
    sent = json.loads(RayLauncher().script(submission()))["runtime_env"]["env_vars"]
    assert {name: value for name, value in sent.items() if name.startswith("RAY_AUTH")} == {"RAY_AUTH_MODE": mode}


def test_auto_becomes_the_address_of_the_cluster_that_is_found(api, monkeypatch):
    found = pytest.importorskip("ray.dashboard.utils")
    monkeypatch.setattr(found, "get_address_for_submission_client", lambda address: f"http://{address}.found")
    made = submission(address="auto")
    assert RayLauncher().submit(made) == "http://auto.found#tok3n"
    assert "--job 'http://auto.found#<token>'" in json.loads(RayLauncher().script(made))["entrypoint"]


def test_auto_without_a_cluster_is_refused_when_submitted_and_shown_before(monkeypatch):
    found = pytest.importorskip("ray.dashboard.utils")

    def none(address):
        raise ConnectionError("Could not find any running Ray instance.")

    monkeypatch.setattr(found, "get_address_for_submission_client", none)
    with pytest.raises(LaunchError, match=r"auto: Could not find any running Ray instance\.; look"):
        RayLauncher().submit(submission(address="auto"))
    assert "--job 'auto#<token>'" in json.loads(RayLauncher().script(submission(address="auto")))["entrypoint"]


def test_a_submission_that_is_repeated_starts_nothing_twice(api):
    first = RayLauncher().submit(submission())
    assert RayLauncher().submit(submission()) == first == f"{ADDRESS}#tok3n"
    assert list(api.jobs) == ["tok3n"]


def test_what_the_cluster_refuses_is_not_taken_for_submitted(api, monkeypatch):
    def refuse(**request):
        raise RuntimeError("no agent")

    monkeypatch.setattr(api, "submit_job", refuse)
    with pytest.raises(LaunchError, match="no agent; nothing was submitted"):
        RayLauncher().submit(submission())


@pytest.mark.parametrize(
    ("status", "message", "report"),
    [
        ("PENDING", "waiting for resources", JobReport("queued", "waiting for resources")),
        ("RUNNING", "Job is currently running.", JobReport("running")),
        ("SUCCEEDED", "Job finished successfully.", JobReport("gone")),
        ("STOPPED", "Job was intentionally stopped.", JobReport("gone", "Job was intentionally stopped.")),
        (
            "FAILED",
            "Job entrypoint exited with 1\nlast 20,000 characters",
            JobReport("gone", "Job entrypoint exited with 1"),
        ),
    ],
)
def test_what_the_job_api_says_of_a_job(api, status, message, report):
    api.jobs["t"] = details("t", status, message)
    job = f"{ADDRESS}#t"
    assert RayLauncher().poll({job: "a-run"}) == {job: report}


def test_a_job_that_a_new_head_does_not_know_is_gone(api):
    job = f"{ADDRESS}#older"
    assert RayLauncher().poll({job: "a-run"}) == {job: JobReport("gone")}


def test_cancel_does_nothing_for_a_job_that_is_not_known(api):
    api.jobs["t"] = details("t", "RUNNING")
    RayLauncher().cancel(f"{ADDRESS}#t")
    RayLauncher().cancel(f"{ADDRESS}#other")
    assert api.stopped == ["t"]


def test_a_profile_without_an_address_is_refused():
    profile = ClusterProfile.model_validate({"launcher": "ray", "root": "/runs"})
    with pytest.raises(PreflightError, match="has no address"):
        RayLauncher().script(submissions.submission(profile))


def test_a_head_that_does_not_answer_is_out_of_reach_and_its_jobs_are_unknown(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    address = f"http://127.0.0.1:{free_ports(1)[0]}"
    with pytest.raises(LaunchError, match=r"ray\.address"), job_api.connected(address):
        pass
    assert RayLauncher().poll({f"{address}#t": "a-run"}) == {f"{address}#t": JobReport("unknown")}


def test_a_head_that_accepts_a_connection_and_says_nothing_is_not_waited_for_for_ever(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(ray_launcher, "_POLL_ANSWER_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        job = f"http://127.0.0.1:{mute.getsockname()[1]}#t"
        assert RayLauncher().poll({job: "a-run"}) == {job: JobReport("unknown")}


def test_a_connection_that_breaks_while_a_job_is_followed_is_a_head_out_of_reach():
    pytest.importorskip("ray")
    from aiohttp import ServerDisconnectedError

    with pytest.raises(LaunchError, match=r"Server disconnected; look whether ray\.address"), job_api._asked(ADDRESS):
        raise ServerDisconnectedError


def test_ray_without_its_client_of_http_is_refused_by_name(monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    with pytest.raises(LaunchError, match=r"the job API is asked with ray\[default\]"), job_api.connected(ADDRESS):
        pass


def test_a_variable_of_rays_does_not_outrank_the_address_that_is_asked(monkeypatch):
    sdk = pytest.importorskip("ray.job_submission")
    monkeypatch.setenv("RAY_ADDRESS", "http://other:1")
    seen = []

    class Client:
        def __init__(self, address):
            seen.append(os.environ.get("RAY_ADDRESS"))

    monkeypatch.setattr(sdk, "JobSubmissionClient", Client)
    with job_api.connected(ADDRESS):
        assert os.environ["RAY_ADDRESS"] == "http://other:1"
    assert seen == [None]


def test_those_who_submit_need_the_job_api_alone_and_neither_torch_nor_ray_train():
    pytest.importorskip("ray")
    script = """
import importlib, sys
sys.modules |= dict.fromkeys(("torch", "ray.train", "pyarrow", "pandas"))  # as if they were not installed
import ray.job_submission
for name in ("launcher", "preflight", "command", "corpus", "module"):
    importlib.import_module(f"gmml_cluster.launch.ray.{name}")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def of_sweep(parallel, sweep="vit-lr", root="/runs"):
    return {"run": "r", "root": root, "sweep": sweep, "parallel": str(parallel)}


@pytest.mark.parametrize(
    ("before", "state"),
    [
        ([("PENDING", of_sweep(1))], "queued"),
        ([("RUNNING", of_sweep(1))], "queued"),
        ([("SUCCEEDED", of_sweep(1)), ("FAILED", of_sweep(1)), ("STOPPED", of_sweep(1))], "running"),
        (
            [("RUNNING", of_sweep(1, sweep="other")), ("RUNNING", of_sweep(1, root="/other")), ("RUNNING", None)],
            "running",
        ),
    ],
)
def test_a_run_whose_turn_has_not_come_is_queued_and_its_driver_waits_by_the_same_rule(api, before, state):
    listed = [details(f"before{n}", *each[:1], metadata=each[1], start_time=n) for n, each in enumerate(before)]
    listed += [details("mine", "RUNNING", metadata=of_sweep(1), start_time=7)]
    listed += [details("after", "RUNNING", metadata=of_sweep(1), start_time=8)]
    api.jobs = {each.submission_id: each for each in listed}
    report = RayLauncher().poll({f"{ADDRESS}#mine": "r"})[f"{ADDRESS}#mine"]
    assert report.state == state
    assert report.reason == ("waits for its turn: 1 run of vit-lr at once" if state == "queued" else "")
    assert (turns.waits("mine", listed) is None) is (state == "running")


def test_a_driver_waits_until_fewer_are_before_it_and_over_an_outage(monkeypatch):
    first, mine = (details(name, "RUNNING", metadata=of_sweep(1), start_time=n) for n, name in enumerate(("a", "mine")))
    answers, pauses = [[first, mine], LaunchError("away"), [mine]], []
    monkeypatch.setattr(turns, "time", SimpleNamespace(sleep=pauses.append))

    def listed():
        answer = answers.pop(0)
        if isinstance(answer, LaunchError):
            raise answer
        return answer

    turns.wait_for_turn("mine", listed)
    assert (answers, len(pauses)) == ([], 2)


@pytest.mark.parametrize("parallel", [None, 2])
def test_a_request_says_of_which_sweep_it_is_where_that_has_a_limit(parallel):
    made = replace(submission(), queue=Queue("vit-lr", parallel))
    request = json.loads(RayLauncher().script(made))
    limited = {"root": "/runs", "sweep": "vit-lr", "parallel": "2"} if parallel else {}
    assert request["metadata"] == {"run": "/runs/a-run", "placement": "PACK", **limited}
    assert ("--in-sweep vit-lr" in request["entrypoint"]) is (parallel is not None)
