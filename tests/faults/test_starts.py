"""A rank whose start goes wrong or is not wanted any more says so in the log and leaves at once."""

import os
import signal
import subprocess
import sys

import pytest

from gmml_cluster.launch.restart import JobStart, judge
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run

RANK_ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "OMP_NUM_THREADS": "1"}
HELD_BACK = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)


@pytest.fixture
def run(tmp_path):
    """A submitted run whose spec no version can read."""
    made = create_run(str(tmp_path), "a", {"spec.yaml": b"name: [a"}, {"spec": "s", "code": "c", "versions": {}})
    protocol.submit(made.log, launcher="local", code="c", bounds={})
    return made


def worker(run):
    """Rank 0, its signals held back until its signal thread handles them."""
    named = {"root": run.root, "run": run.name, "submit": run.log.refresh().submit.token, "job": "j", "restart": "0"}
    arguments = [word for name, value in named.items() for word in (f"--{name}", value)]
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        command = [sys.executable, "-m", "gmml_cluster.train.worker", *arguments]
        return subprocess.Popen(command, env={**os.environ, **RANK_ENVIRONMENT}, stderr=subprocess.PIPE, text=True)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def test_a_fault_before_the_claim_is_reported_by_name_and_counts_once(run):
    process = worker(run)
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 1, output
    history = run.log.refresh()
    assert history.attempts == ()
    assert "spec.yaml" in history.submit.failed
    assert judge(run.log, JobStart(history.submit.token, "j", 0), 1).again
    assert run.log.refresh().slots == history.slots


def test_a_notice_held_back_since_before_exec_ends_a_start_before_its_claim(run):
    slots = run.log.refresh().slots
    process = worker(run)
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=600)[1]
    assert process.returncode == 77, output
    assert run.log.refresh().slots == slots
