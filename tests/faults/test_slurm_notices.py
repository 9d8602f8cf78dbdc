"""The real worker and the notices of sites: no grace without the user signal, a grace, CANCEL; and nodes that lie."""

import os
import signal
from pathlib import Path

import pytest

from tests.fixtures.notices import LIMIT_S, Notice, SlurmSite, calm_figures, give, rows
from tests.fixtures.slurm import missing, parent_of, running_slurm, until
from tests.fixtures.supervised import ranks_of

pytestmark = pytest.mark.timeout(1200)

STEP = "a step of training"
# plain DDP, as its ranks start faster than DeepSpeed's
JOB = {"run": {"steps": 60}, "engine": {"zero": "ddp"}, "checkpoint": {"every": "10 steps", "keep": 100}}


@pytest.fixture(scope="module")
def calm(tmp_path_factory, digits):
    return calm_figures(tmp_path_factory.mktemp("calm"), digits, 1, **JOB)


def cluster_of(user_signal):
    if lacking := missing():
        pytest.skip(lacking)
    return running_slurm(user_signal=user_signal, kill_wait=30)


@pytest.fixture(scope="module")
def switch_off():
    with cluster_of(user_signal=False) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def switch_on():
    with cluster_of(user_signal=True) as cluster:
        yield cluster


def held_rank(site, run):
    """The process of the run's only rank, which makes no further step: on a fast machine it would finish the run."""
    site.hold(STEP)
    site.wait_held(STEP, 0)
    (rank,) = ranks_of(site, run).values()
    return rank


def assert_settled(site, run, calm, causes):
    history = site.wait(run, lambda history: history.finished, "the run finishes")
    assert [attempt.cause for attempt in history.attempts] == [*causes, "finished"]
    assert site.figures(run) == calm
    site.assert_no_orphan(run)


def test_a_preemption_without_grace_costs_nothing_and_an_srun_that_leaves_0_no_queueing(
    tmp_path, digits, calm, switch_off
):
    site = SlurmSite(tmp_path, digits, switch_off)
    site.pace(0.5)
    site.submit(site.job("low", **JOB), "low", nodes=1)
    given = give(site, "low", Notice(ranks=(0,)))
    site.wait("low", lambda history: history.commits[-1].attempt == 2, "another checkpoint")
    (row,) = rows(site, "low", [given])
    assert (row["cause"], row["steps_lost"], row["by"]) == ("preempted", 0, "the same job")
    rank = held_rank(site, "low")
    os.kill(parent_of(rank), signal.SIGKILL)  # srun loses its step, waits KillWait and leaves 0; the rank lives on
    site.wait("low", lambda history: history.last_attempt == 3, "another start claims")
    until(lambda: not Path(f"/proc/{rank}").exists(), LIMIT_S, "the fenced rank leaves")
    site.release(STEP)
    site.pace(0)
    assert_settled(site, "low", calm, ["preempted", "lost"])
    assert "ranks ended with 0," in site.output(given.job)
    assert site.restarts(given.job) == 1, "the second start was in the same allocation"


def test_a_grace_of_5_s_that_begins_during_a_save_is_settled_as_preempted(tmp_path, digits, calm, switch_on):
    site = SlurmSite(tmp_path, digits, switch_on)
    site.pace(0.2)
    site.hold("writing")
    site.submit(site.job("saving", **JOB), "r5", nodes=1)
    given = give(site, "saving", Notice("r5", moment="writing", ranks=(0,)))
    site.pace(0)
    assert_settled(site, "saving", calm, ["preempted"])
    (row,) = rows(site, "saving", [given])
    commits = [e.fields["step"] for e in site.log("saving").read() if e.kind == "commit" and e.attempt == 1]
    assert commits[0] == 9, "the save in flight was finished"
    assert commits[-1] > 9, "and another made"
    assert (row["from_step"], row["steps_lost"]) == (commits[-1] + 1, 0)


def test_a_cancel_with_grace_comes_back_and_so_does_a_run_whose_node_was_given_up_while_its_rank_lives(
    tmp_path, digits, calm, switch_on
):
    site = SlurmSite(tmp_path, digits, switch_on)
    site.pace(0.5)
    site.submit(site.job("c5", **JOB), "c5", nodes=1)
    given = give(site, "c5", Notice("c5", ranks=(0,)))
    site.wait("c5", lambda history: history.commits[-1].attempt == 2, "another checkpoint")
    rank = held_rank(site, "c5")
    node = switch_on.job(given.job)["NodeList"]
    switch_on.daemons[node].kill()
    try:
        site.wait("c5", lambda history: history.last_attempt == 3, "a start on another node claims")
        until(lambda: not Path(f"/proc/{rank}").exists(), LIMIT_S, "the fenced rank leaves")
        site.release(STEP)
        assert switch_on.job(given.job)["NodeList"] != node
        site.pace(0)
        assert_settled(site, "c5", calm, ["preempted", "node_lost"])
    finally:
        switch_on.repair(node)
