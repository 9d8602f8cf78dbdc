"""A preempted job is requeued by rank 0 before it is killed in a save, and no other job is."""

import os
from types import SimpleNamespace

import pytest

from gmml_cluster.train.ranks import before_kill

PREEMPTED = "PreemptTime=2026-11-30T22:43:40"


@pytest.fixture
def scontrol(tmp_path, monkeypatch):
    """Writes a stand-in that shows the job so, and answers a requeue with this code; returns what was asked for."""

    def written(shown, code=0):
        tool = tmp_path / "scontrol"
        tool.write_text(
            f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n[ "$1" = requeue ] && exit {code}\necho "{shown}"\n'
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("GMML_JOB", "17")
        return lambda: (tmp_path / "asked").read_text().splitlines()

    return written


def test_a_preempted_job_is_requeued(scontrol):
    asked = scontrol(f"JobId=17 JobState=COMPLETING {PREEMPTED}")
    before_kill.requeue_if_preempted()
    assert asked() == ["-o show job 17", "requeue 17"]


@pytest.mark.parametrize(
    "shown",
    [
        f"JobId=17 JobState=RUNNING {PREEMPTED}",
        "JobId=17 JobState=COMPLETING PreemptTime=None",
        "JobId=17 JobState=COMPLETING",
        "",
    ],
    ids=["within its GraceTime", "cancelled", "of another SLURM", "no answer"],
)
def test_no_other_job_is(scontrol, shown):
    asked = scontrol(shown)
    before_kill.requeue_if_preempted()
    assert asked() == ["-o show job 17"]


def test_a_refusal_ends_nothing(scontrol):
    asked = scontrol(f"JobState=COMPLETING {PREEMPTED}", code=1)
    before_kill.requeue_if_preempted()
    assert asked()[-1] == "requeue 17"


@pytest.mark.parametrize(
    ("job", "kill_wait", "waits"),
    [("17", "30", [18.0, "no more", 18.0]), ("17", "5", [3.0, "no more", 3.0]), (None, "30", [])],
)
def test_the_last_notice_is_followed_up_within_kill_wait_where_a_batch_script_of_ours_runs(
    monkeypatch, job, kill_wait, waits
):
    found = []

    def timer(seconds, action):
        assert action is before_kill.requeue_if_preempted
        found.append(seconds)
        return SimpleNamespace(daemon=False, start=lambda: None, cancel=lambda: found.append("no more"))

    monkeypatch.setattr(before_kill, "threading", SimpleNamespace(Timer=timer))
    monkeypatch.setenv("GMML_KILL_WAIT_S", kill_wait)
    monkeypatch.delenv("GMML_JOB", raising=False)
    if job is not None:
        monkeypatch.setenv("GMML_JOB", job)
    watched = before_kill.BeforeKill()
    watched.notice()
    watched.notice()
    assert found == waits
