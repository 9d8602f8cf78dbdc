"""Runs that SLURM suspends: by preemption, in turns with another job, by an operator. Each goes on where it stood.

The first is suspended for longer than any limit of ours: of the watchdog and its timer (six and eight minutes), of
requests to a store (five) and of waits for other ranks during a save (ten).
"""

import os
import signal
import time

import pytest

from gmml_cluster.running_time import MOST_S
from tests.fixtures.accounting import ACCOUNT, SUSPENDED, missing_accounting
from tests.fixtures.notices import LIMIT_S, SlurmSite, calm_figures
from tests.fixtures.slurm import missing, running_slurm, until
from tests.fixtures.supervised import ranks_of

pytestmark = pytest.mark.timeout(3600)

JOB = {"run": {"steps": 100}, "checkpoint": {"every": "10 steps", "keep": 3}}
SUSPENDED_S = 700
HELD_S = 30
SAYS = "running: suspended; its scheduler lets it go on later"


@pytest.fixture(scope="module")
def calm(tmp_path_factory, digits):
    return calm_figures(tmp_path_factory.mktemp("calm"), digits, 2, **JOB)


@pytest.fixture(autouse=True)
def needed():
    if lacking := missing():
        pytest.skip(lacking)


def site_of(tmp_path, digits, cluster, run):
    folder = tmp_path / run
    folder.mkdir()
    site = SlurmSite(folder, digits, cluster)
    site.pace(0.2)
    return site


def state(cluster, job):
    return cluster.job(job)["JobState"]


def assert_unmoved(site, run, calm, causes=("finished",)):
    site.pace(0)
    history = site.wait(run, lambda history: history.finished, "the run finishes")
    assert [attempt.cause for attempt in history.attempts] == list(causes), site.errors(site.job_of(run), 0)[-4000:]
    assert site.restarts(site.job_of(run)) == 0, "in its first allocation"
    assert site.figures(run) == calm
    site.assert_no_orphan(run)


def assert_accounted(site, run, seconds):
    """So long at least as the job was seen suspended, for both ranks."""
    assert site.history(run).account.rank_s["suspended"] >= 2 * (seconds - MOST_S)


def test_preempted_for_longer_than_any_limit_while_one_run_trains_and_another_saves(tmp_path, digits, calm):
    with running_slurm(("n1", "n2", "n3", "n4"), suspends=True, kill_wait=30) as cluster:
        sites = {run: site_of(tmp_path, digits, cluster, run) for run in ("training", "saving")}
        sites["saving"].hold("writing", 1)
        for run, site in sites.items():
            site.submit(site.job(run, **JOB), "s0")
        sites["training"].wait("training", lambda history: history.commits, "a checkpoint")
        sites["saving"].wait_held("writing", 1)
        jobs, urgent = [site.job_of(run) for run, site in sites.items()], cluster.preempt()
        for job in jobs:
            until(lambda job=job: state(cluster, job) == "SUSPENDED", LIMIT_S, "the job is suspended")
        until(lambda: state(cluster, urgent) == "RUNNING", LIMIT_S, "the urgent job runs")
        assert SAYS in sites["training"].call("gmml", "status", "training")
        time.sleep(SUSPENDED_S)  # the length of the suspension
        assert {state(cluster, job) for job in jobs} == {"SUSPENDED"}
        sites["training"].take_back(urgent)
        sites["saving"].release("writing")
        for run, site in sites.items():
            assert_unmoved(site, run, calm)
            assert_accounted(site, run, SUSPENDED_S)


def test_by_a_qos_that_suspends(tmp_path, digits, calm):
    if lacking := missing_accounting():
        pytest.skip(lacking)
    with running_slurm(suspends=True, accounts=True, kill_wait=30) as cluster:
        site = site_of(tmp_path, digits, cluster, "qos")
        site.submit(site.job("qos", **JOB), "low", account=ACCOUNT, qos=SUSPENDED)
        site.wait("qos", lambda history: history.commits, "a checkpoint")
        job, urgent = site.job_of("qos"), cluster.preempt()
        until(lambda: state(cluster, job) == "SUSPENDED", LIMIT_S, "the job is suspended")
        until(lambda: state(cluster, urgent) == "RUNNING", LIMIT_S, "the urgent job runs")
        assert SAYS in site.call("gmml", "status", "qos")
        site.take_back(urgent)
        assert_unmoved(site, "qos", calm)


def test_in_turns_with_another_job(tmp_path, digits, calm):
    with running_slurm(suspends=True, kill_wait=30) as cluster:
        site = site_of(tmp_path, digits, cluster, "turns")
        site.pace(0.5)
        site.submit(site.job("turns", **JOB), "turns")
        other = cluster.submit("sleep 3600", "-p", "turns", "-N", "2", "--exclusive")
        job = site.job_of("turns")
        site.wait("turns", lambda history: history.begins, "the attempt begins")
        for _ in range(4):
            until(lambda: state(cluster, job) == "SUSPENDED", LIMIT_S, "the other job's turn")
            until(lambda: state(cluster, job) == "RUNNING", LIMIT_S, "the run's turn")
        assert not site.history("turns").finished
        site.take_back(other)
        assert_unmoved(site, "turns", calm)


def test_by_an_operator_without_gang_scheduling_and_a_rank_killed_afterwards_is_no_preemption(tmp_path, digits, calm):
    with running_slurm(kill_wait=30) as cluster:
        site = site_of(tmp_path, digits, cluster, "held")
        site.submit(site.job("held", **JOB), "low")
        site.wait("held", lambda history: history.commits, "a checkpoint")
        job = site.job_of("held")
        cluster.call("scontrol", "suspend", job)
        until(lambda: state(cluster, job) == "SUSPENDED", LIMIT_S, "the job is suspended")
        assert SAYS in site.call("gmml", "status", "held")
        time.sleep(HELD_S)  # the length of the suspension
        cluster.call("scontrol", "resume", job)
        saved = len(site.history("held").commits)
        site.wait("held", lambda history: len(history.commits) > saved, "another checkpoint")
        os.kill(ranks_of(site, "held")[1], signal.SIGKILL)
        assert_unmoved(site, "held", calm, ["killed", "finished"])
        assert_accounted(site, "held", HELD_S)
