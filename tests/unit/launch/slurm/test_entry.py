import ast
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gmml_cluster.launch.slurm import entry
from gmml_cluster.launch.snapshot import Snapshot
from gmml_cluster.run import codes

STEP = {
    "SLURM_PROCID": "5",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_NTASKS": "16",
    "SLURM_LOCALID": "1",
    "SLURM_GTIDS": "4,5,6",
    "SLURM_NODEID": "1",
    "GMML_JOB": "17",
    "GMML_RESTART": "3",
}

WORKER = """
import json, os, signal, sys
print(json.dumps({"argv": sys.argv[1:], "rank": os.environ["RANK"],
    "held": sorted(n.name for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])),
    "waiting": sorted(n.name for n in signal.sigpending())}))
"""

# What submitit does before it calls the entry: its own handlers, and a thread that blocks nothing.
CALLER = """
import os, signal, sys, threading, time
signal.signal(signal.SIGTERM, lambda *_: print("lost"))
from gmml_cluster.launch.slurm import entry
threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
real = os.execve
wanted = 1 << signal.SIGTERM - 1 | 1 << signal.SIGUSR2 - 1
def pending_here():
    # not sigpending, which also counts a signal that the other thread is about to take
    lines = open("/proc/thread-self/status").readlines()
    return next(int(line.split()[1], 16) for line in lines if line.startswith("SigPnd"))
def execve(*arguments):
    for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGURG):
        os.kill(os.getpid(), number)
    while not pending_here() & wanted == wanted:
        time.sleep(0.01)
    real(*arguments)
entry.os.execve = execve
entry.main(*sys.argv[1:])
"""


def test_place_is_that_of_the_step_not_of_the_job() -> None:
    assert entry.rank_environment(STEP) == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "3",
        "NODE_RANK": "1",
    }


def test_only_the_interpreters_own_modules_are_imported_before_signals_are_held() -> None:
    tree = ast.parse(Path(entry.__file__).read_text())
    imported = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    from_ = {node.module for node in tree.body if isinstance(node, ast.ImportFrom)}
    assert imported | from_ == {"os", "signal", "sys", "collections.abc", "typing"}


@pytest.fixture
def code(tmp_path: Path) -> Snapshot:
    package = Path(entry.__file__).parents[2]
    kept = [
        "__init__.py",
        "errors.py",
        "launch/__init__.py",
        "launch/after/__init__.py",
        "launch/after/evidence.py",
        "launch/after/exits.py",
        "launch/folders.py",
        "launch/slurm/__init__.py",
        "launch/slurm/entry.py",
        "launch/slurm/logs.py",
        "launch/tail.py",
        "run/__init__.py",
        "run/codes.py",
        "run/ends/__init__.py",
        "run/ends/causes.py",
        "run/ends/symptoms.py",
        "launch/snapshot.py",
    ]
    files = {f"gmml_cluster/{name}": (package / name).read_bytes() for name in [*kept, "train/__init__.py"]}
    made = Snapshot.of({**files, "gmml_cluster/train/worker.py": WORKER.encode()})
    (tmp_path / made.file_name).write_bytes(made.data)
    return made


def test_a_notice_on_the_way_to_the_worker_waits_there_for_its_handlers(code: Snapshot, tmp_path: Path) -> None:
    environment = {**os.environ, **STEP, "TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path / code.file_name)}
    arguments = [str(tmp_path / code.file_name), code.digest, "s3://b/p", "a-run", "tok", "gmml_cluster.train.worker"]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CALLER, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed["argv"] == [
        "--root",
        "s3://b/p",
        "--run",
        "a-run",
        "--submit",
        "tok",
        "--job",
        "17",
        "--restart",
        "3",
    ]
    assert printed["rank"] == "5"
    assert printed["held"] == sorted(number.name for number in entry.HELD_BACK)
    assert "gmml: start 3 of job 17, rank 5" in done.stderr
    assert printed["waiting"] == [signal.SIGTERM.name, signal.SIGUSR2.name]


def test_a_rank_that_cannot_become_the_worker_exits_with_a_code_that_wins_over_its_peers(
    code: Snapshot, tmp_path: Path
) -> None:
    archive = tmp_path / code.file_name
    environment = {**os.environ, **STEP, "TMPDIR": str(tmp_path)}
    arguments = [str(archive), "another-digest", "s3://b/p", "a-run", "tok", "gmml_cluster.train.worker"]
    done = subprocess.run([sys.executable, "-P", "-c", CALLER, *arguments], env=environment, capture_output=True)
    assert done.returncode == codes.UNMET > codes.COME_BACK
    assert b"Traceback" in done.stderr
