"""Runs of a sweep on this machine take turns."""

import os
import signal
import subprocess
import sys

import pytest

from gmml_cluster.launch.local import queue
from gmml_cluster.launch.local.launcher import LocalJob
from gmml_cluster.launch.local.lock import Holder, held, run_digest
from gmml_cluster.launch.local.queue import queue_folder, shown_waiting, ticket, waits
from gmml_cluster.launch.protocol import JobReport


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return queue_folder(str(tmp_path / "runs"), "vit-lr")


def test_who_comes_later_waits_for_those_before_and_is_not_overtaken(folder):
    with ticket(folder) as first:
        with ticket(folder) as second, ticket(folder) as third:
            assert [each.ahead() for each in (first, second, third)] == [0, 1, 2]
        with ticket(folder) as fourth:
            assert (fourth.number, fourth.ahead()) == (4, 1)
    with ticket(folder) as next_one:
        assert next_one.ahead() == 0


def test_a_ticket_whose_holder_died_is_passed_over_and_removed(folder):
    code = (
        "import sys; from pathlib import Path; from gmml_cluster.launch.local.queue import ticket\n"
        "with ticket(Path(sys.argv[1])):\n    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        with ticket(folder) as mine:
            assert mine.ahead() == 1
            other.kill()
            other.wait()
            assert mine.ahead() == 0
            assert [path.name for path in folder.glob("*.ticket")] == ["00000002.ticket"]


def test_a_ticket_is_held_until_the_last_process_that_inherits_it_has_gone(folder):
    with ticket(folder) as mine:
        rank = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[mine.file.fileno()])
    with ticket(folder) as other:
        assert other.ahead() == 1
        rank.communicate()
        assert other.ahead() == 0


def test_a_turn_comes_when_fewer_are_ahead_and_a_signal_ends_the_wait(folder, monkeypatch):
    looks = []

    def look(signals, seconds):
        looks.append(seconds)
        return None if len(looks) < 3 else object()

    monkeypatch.setattr(signal, "sigtimedwait", look)
    with ticket(folder), ticket(folder) as mine:
        assert mine.wait(2)
        assert looks == []
        assert not mine.wait(1)
        assert len(looks) == 3


def test_a_job_that_waits_is_queued_and_says_for_what_until_its_supervisor_is_gone(tmp_path):
    root = str(tmp_path / "runs")
    job = LocalJob(os.uname().nodename, run_digest(root, "a"), "t")
    with shown_waiting(job.run, "t", 1, "vit-lr"):
        with held(root, "a", Holder(os.uname().nodename, os.getpid(), "t"), wait_s=1):
            assert job.report == JobReport("queued", "waits for its turn: 1 run of vit-lr at once")
        assert job.report == JobReport("gone")
    assert waits(job.run, "t") is None
    assert queue.waits(job.run, "other") is None
