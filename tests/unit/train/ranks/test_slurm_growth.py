"""What SLURM's tools say of nodes to gain, by tools on the path that print what SLURM 22.05 prints."""

import os

import pytest

from gmml_cluster.run.growth import Growth
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.ranks.slurm_growth import QueueLooks, nodes_to_gain

JOB = "JobId=17 JobName=a Requeue=1 Partition=low ExcNodeList=n[3-4]"
IDLE = "n2 idle\nn3 idle\nn5 idle*\nn6 idle~"


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Writes the tools: what `scontrol show job`, `squeue` and `sinfo` print."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def write(job=JOB, waiting="17", idle=IDLE):
        names = 'case "$2" in hostnames) printf "n3\\nn4\\n" ;; *) echo "' + job + '" ;; esac'
        for name, body in (("scontrol", names), ("squeue", f'echo "{waiting}"'), ("sinfo", f'echo "{idle}"')):
            (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
            (tmp_path / name).chmod(0o755)

    return write


def test_idle_nodes_that_answer_and_are_not_excluded_are_to_be_gained(site):
    site()
    assert nodes_to_gain("17") == 1
    site(job=JOB.replace("n[3-4]", "(null)"))
    assert nodes_to_gain("17") == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"waiting": "17\n18"},
        {"idle": ""},
        {"job": JOB.replace("Requeue=1", "Requeue=0")},
        {"job": "slurm_load_jobs error: Unable to contact slurm controller"},
    ],
    ids=["another job waits", "none is idle", "the job must not be requeued", "no controller"],
)
def test_where_nothing_promises_them_there_are_none(site, changes):
    site(**changes)
    assert nodes_to_gain("17") == 0


@pytest.mark.parametrize("tool", ["squeue", "sinfo"])
def test_a_tool_that_fails_promises_nothing(site, tmp_path, tool):
    site()
    (tmp_path / tool).write_text("#!/bin/sh\nexit 1\n")
    assert nodes_to_gain("17") == 0


def test_outside_a_job_there_are_none():
    assert nodes_to_gain("") == 0


def test_rank_0_gives_notice_with_the_proof_at_the_checkpoint_that_follows(site, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    site(job=JOB.replace("n[3-4]", "(null)"))
    commit, request = [9], StopRequest()
    looks = QueueLooks(Growth(2), most=3, last_commit=lambda: commit[0], stop_request=request)
    looks.look()
    assert (request.stop, request.grown) == ("", "")
    commit[0] = 19
    looks.look()
    assert (request.stop, request.grown) == ("notice", "there is room for 3 nodes instead of 2")


def test_an_attempt_that_is_to_stop_already_is_not_asked_to_grow(site, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    site()
    request = StopRequest("cancelled")
    QueueLooks(Growth(2), most=3, last_commit=lambda: pytest.fail("read"), stop_request=request).look()
    assert request.grown == ""
