"""The local launcher from end to end, with a stand-in for the training worker inside the submitted code."""

import fcntl
import os
import socket
import sys
import time
from pathlib import Path

import pytest

import gmml_cluster
from gmml_cluster.errors import LaunchError
from gmml_cluster.launch.local.launcher import LocalJob, LocalLauncher, _path
from gmml_cluster.launch.local.lock import holder, lock_path, run_digest, supervisor_path
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.plan.machine import Machine
from gmml_cluster.spec.cluster import ClusterProfile
from tests.fixtures import submissions

WORKER = """
import os, signal, sys
print("started", os.getpid(), *sys.argv[1:], os.environ["FRUIT"], flush=True)
signal.sigwait([signal.SIGTERM])
print("saved", flush=True)
os._exit(77)
"""
AFTER = "def restart_delay_s(*_, **__): return None\n"


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def code(worker=WORKER, **others):
    package = Path(gmml_cluster.__file__).parent
    parts = ("errors.py", "wording.py", "__init__.py", "launch", "outputs", "run", "store")
    names = [path for path in package.rglob("*.py") if path.relative_to(package).parts[0] in parts]
    files = {f"gmml_cluster/{path.relative_to(package)}": path.read_bytes() for path in names}
    files |= {
        "gmml_cluster/train/__init__.py": b"",
        "gmml_cluster/train/worker.py": worker.encode(),
        "gmml_cluster/launch/restart.py": AFTER.encode(),
        **others,
    }
    return Snapshot.of(files)


def submission(tmp_path, token="t1", snapshot=None, nodes=1):
    profile = ClusterProfile(launcher="local", root=str(tmp_path / "runs"), environment={"FRUIT": "pear"})
    named = {"name": "a", "token": token, "nodes": nodes, "ranks_per_node": 2}
    return submissions.submission(profile, code=snapshot or code(), **named)


def wait_for(condition, deadline_s=240):
    until = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < until, "the awaited event did not come"
        time.sleep(0.02)


def texts(job):
    outputs = [LocalLauncher().output(job, {}, restart=0, rank=rank) for rank in range(2)]
    return [output.read_text() if output else "" for output in outputs]


def wait_for_start(job):
    """A worker's line may be read before its end is written."""
    wait_for(lambda: all(text.startswith("started") and text.endswith("\n") for text in texts(job)))


def states(*jobs):
    return tuple(LocalLauncher().poll({job: "a"})[job].state for job in jobs)


def test_ranks_import_the_submitted_code_first_and_then_from_the_profiles_path():
    assert _path(Path("/code"), {"PYTHONPATH": "/site"}) == "/code:/site"
    assert _path(Path("/code"), {}) == "/code"


def test_a_job_runs_until_it_is_cancelled_and_its_ranks_save(tmp_path):
    launcher = LocalLauncher()
    job = launcher.submit(submission(tmp_path))
    assert launcher.poll({job: "a"}) == {job: JobReport("running")}
    wait_for_start(job)
    root = str(tmp_path / "runs")
    assert f"--root {root} --run a --submit t1 --job {job} --restart 0 pear" in texts(job)[0]
    launcher.cancel(job)
    wait_for(lambda: states(job) == ("gone",))
    assert all(text.endswith("saved\n") for text in texts(job))
    launcher.cancel(job)


def test_a_newer_submit_takes_over_from_the_supervisor(tmp_path):
    launcher = LocalLauncher()
    first = launcher.submit(submission(tmp_path, "t1"))
    wait_for_start(first)
    second = launcher.submit(submission(tmp_path, "t2"))
    assert states(first, second) == ("gone", "running")
    assert all(text.endswith("saved\n") for text in texts(first))
    launcher.cancel(second)
    wait_for(lambda: states(second) == ("gone",))


def test_a_supervisor_that_cannot_start_is_quoted_and_leaves_no_lock(tmp_path):
    broken = code(**{"gmml_cluster/launch/local/supervisor.py": b"raise SystemExit('no bananas')"})
    with pytest.raises(LaunchError, match="did not start: no bananas"):
        LocalLauncher().submit(submission(tmp_path, snapshot=broken))
    assert holder(lock_path(run_digest(str(tmp_path / "runs"), "a"))) is None


def test_a_supervisor_does_not_outlive_an_interrupted_submission(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("select.select", interrupt)
    with pytest.raises(KeyboardInterrupt):
        LocalLauncher().submit(submission(tmp_path))
    assert holder(lock_path(run_digest(str(tmp_path / "runs"), "a"))) is None


def test_the_ranks_run_the_submitted_code_and_not_what_lies_here(tmp_path):
    worker = "import gmml_cluster; print(gmml_cluster.__file__)"
    job = LocalLauncher().submit(submission(tmp_path, snapshot=code(worker)))
    wait_for(lambda: states(job) == ("gone",))
    assert texts(job)[0].startswith(f"{tmp_path}/gmml-{os.getuid()}/")


def test_a_supervisor_that_has_not_written_its_name_yet_may_serve_any_job():
    job = LocalJob(host=socket.gethostname(), run="nameless", submit="s")
    supervisor_path("nameless").parent.mkdir(parents=True, exist_ok=True)
    with supervisor_path("nameless").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert job.report.state == "unknown"
    assert job.report.state == "gone"


def test_a_job_of_another_machine_is_unknown_and_cannot_be_notified_from_here():
    job = str(LocalJob(host="elsewhere", run="0123456789abcdef", submit="t"))
    assert states(job) == ("unknown",)
    with pytest.raises(LaunchError, match=r"started on elsewhere.*cancel it there"):
        LocalLauncher().cancel(job)


def test_two_nodes_are_refused_with_the_cure(tmp_path):
    (fault,) = LocalLauncher().preflight(submission(tmp_path, nodes=2))
    assert "resources.nodes=1" in str(fault)
    assert LocalLauncher().preflight(submission(tmp_path)) == []


def test_the_script_shows_the_command_without_the_token(tmp_path):
    text = LocalLauncher().script(submission(tmp_path))
    assert text.startswith(sys.executable)
    assert "--submit <token> --module gmml_cluster.train.worker --ranks 2" in text


def test_ranks_learn_how_many_gpus_this_machine_has(tmp_path, monkeypatch):
    monkeypatch.setattr(LocalLauncher, "node", lambda *_: Machine(cores=4, gpus=2))
    worker = "import os\nprint('started', os.environ['GMML_GPUS'], flush=True)\nos._exit(0)\n"
    job = LocalLauncher().submit(submission(tmp_path, snapshot=code(worker)))
    wait_for(lambda: texts(job) == ["started 2\n"] * 2)
    wait_for(lambda: states(job) == ("gone",))


def test_a_python_without_torch_is_refused_before_anything_starts(tmp_path, monkeypatch):
    monkeypatch.setattr("gmml_cluster.launch.imports.find_spec", lambda name: None)
    (fault,) = LocalLauncher().preflight(submission(tmp_path))
    assert (fault.where, fault.problem) == ("launcher", f"{sys.executable} starts the ranks and has no torch")
    assert "pip install 'gmml-cluster[train]'" in fault.hint
