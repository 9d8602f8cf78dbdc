"""Commands that run as a job of a Ray cluster: what is sent, what comes back, and how they end here."""

import asyncio
import contextlib
import subprocess
import sys
from types import SimpleNamespace

import pytest

from gmml_cluster.cli.compute import absolute_url, run_module
from gmml_cluster.errors import LaunchError
from gmml_cluster.launch.ray import command as commands
from gmml_cluster.launch.ray.command import Command, follow
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.spec.cluster import ClusterProfile

CODE = Snapshot("d1ge5t", b"zip")
COMMAND = Command("eval", ["module", "--run", "it's"], CODE)


class Client:
    """A job API whose jobs print this and end like that, at once."""

    def __init__(self, status, printed=(), code=None, message=""):
        self.printed, self.sent = list(printed), []
        self.info = SimpleNamespace(status=SimpleNamespace(value=status), driver_exit_code=code, message=message)
        self.known = []

    def list_jobs(self):
        return [SimpleNamespace(submission_id=job, status=SimpleNamespace(value=status)) for job, status in self.known]

    def submit_job(self, **request):
        self.sent.append(request)

    def get_job_info(self, job):
        self.asked = job
        return self.info

    async def tail_job_logs(self, job):
        for text in self.printed:
            yield text


@pytest.fixture
def cluster(monkeypatch):
    """A client that each address leads to."""

    def answering(*arguments, **options):
        client = Client(*arguments, **options)
        monkeypatch.setattr(commands, "connected", lambda address: contextlib.nullcontext(client))
        return client

    return answering


def profile(**ray):
    sections = {"environment": {"A": "b"}, "ray": {"address": "http://head:8265", **ray}}
    return ClusterProfile.model_validate({"launcher": "ray", "root": "/runs", **sections})


def followed(client, command=COMMAND, **ray):
    made = profile(**ray)
    return follow(made, made.ray, command)


def test_marked_lines_are_printed_where_they_belong_although_they_come_in_pieces(cluster, capsys):
    client = cluster("SUCCEEDED", ["Ray's line\ngmml:out a re", "sult\ngmml:err a warn", "ing\ngmml:out end"])
    assert followed(client) == 0
    assert capsys.readouterr() == ("a result\nend\n", "a warning\n")


def test_what_is_sent_is_quoted_for_a_shell_with_code_and_environment(cluster):
    client = cluster("SUCCEEDED")
    followed(client, runtime_env={"pip": ["x"]})
    (request,) = client.sent
    assert request["entrypoint"] == "python -u -m module --run 'it'\"'\"'s'"
    environment = request["runtime_env"]
    assert (environment["pip"], environment["env_vars"]["A"]) == (["x"], "b")
    assert environment["working_dir"].endswith("/d1ge5t.zip")


def test_the_same_command_is_one_job_while_it_runs_and_another_afterwards(cluster):
    client = cluster("SUCCEEDED")
    followed(client)
    job = client.sent[0]["submission_id"]
    client.known = [(job, "RUNNING")]
    followed(client)
    assert (len(client.sent), client.asked) == (1, job)
    client.known = [(job, "FAILED")]
    followed(client)
    assert client.sent[1]["submission_id"] == f"{job.removesuffix('-0')}-1"


def test_a_head_that_falls_silent_while_its_job_is_followed_is_asked_and_is_out_of_reach(monkeypatch):
    monkeypatch.setattr(commands, "_SILENCE_S", 0.0)
    answers = ["RUNNING", TimeoutError("no answer")]

    async def nothing():
        await asyncio.sleep(3600)
        yield ""

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer

    async def heard():
        return [text async for text in commands._heard(nothing(), ask)]

    with pytest.raises(TimeoutError, match="no answer"):
        asyncio.run(heard())
    assert not answers


def test_its_exit_code_is_the_commands(cluster):
    assert followed(cluster("FAILED", ["gmml:err a fault\n"], code=3)) == 3


def test_a_command_that_could_not_start_there_says_why_in_the_last_line_that_ray_has(cluster):
    message = "Job entrypoint command failed with exit code 1, last available logs:\nTraceback\nNo module named 'click'"
    with pytest.raises(LaunchError, match=r"ended as FAILED \(No module named 'click'\); repeat the command"):
        followed(cluster("FAILED", ["Traceback\nNo module named 'click'\n"], code=1, message=message))


def test_a_job_that_was_lost_is_a_fault_with_what_ray_says(cluster):
    with pytest.raises(LaunchError, match=r"ended as FAILED \(node died\); repeat the command"):
        followed(cluster("FAILED", message="node died\nmore"))


def test_a_score_takes_what_a_rank_gets_on_a_node_with_the_labels(cluster, tmp_path):
    client = cluster("SUCCEEDED")
    path = tmp_path / "site.yaml"
    path.write_text(
        "{launcher: ray, root: runs, ray: {address: 'http://head:8265', gpus_per_node: 8, cpus_per_rank: 4, "
        "labels: {pool: spot}, resources: {fast: 1}}}"
    )
    assert run_module("a.module", ["--run", "r"], needs="no_such_torch", cluster=str(path), code=CODE) == 0
    (request,) = client.sent
    assert request["entrypoint"] == "python -u -m gmml_cluster.launch.ray.module a.module --run r"
    asked = {name: value for name, value in request.items() if name.startswith("entrypoint_")}
    assert asked == {
        "entrypoint_num_cpus": 4,
        "entrypoint_num_gpus": 1,
        "entrypoint_resources": {"fast": 1.0},
        "entrypoint_label_selector": {"pool": "spot"},
    }


def test_a_module_runs_there_as_if_it_had_been_started_itself(tmp_path):
    (tmp_path / "scores.py").write_text(
        "import sys\nif __name__ == '__main__':\n    print(sys.argv[1:]); print('w', file=sys.stderr); sys.exit(4)\n"
    )
    command = [sys.executable, "-m", "gmml_cluster.launch.ray.module", "scores", "--json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (4, "")
    assert sorted(done.stdout.splitlines()) == ["gmml:err w", "gmml:out ['--json']"]


def test_corpora_are_named_for_a_process_in_another_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/x")
    assert absolute_url("a/*.tar") == f"{tmp_path}/a/*.tar"
    assert absolute_url("file:///b") == "/b"
    assert absolute_url("~/c") == "/home/x/c"
    assert absolute_url("s3://bucket/d") == "s3://bucket/d"
