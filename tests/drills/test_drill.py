"""`gmml drill` on this machine, on SLURM and on Ray; a hang takes minutes to notice."""

import json

import pytest

from tests.fixtures.runs import Workshop

pytestmark = pytest.mark.timeout(1800)

DISTURBED = pytest.mark.parametrize(
    ("kind", "causes", "least_lost"),
    [
        ("preempt", ["notice", "finished"], 0),
        ("kill", ["killed", "finished"], 1),
        ("disk", ["storage", "finished"], 0),
        ("store", ["storage", "finished"], 0),
    ],
)
NODES = ("resources.nodes=2",)
LIMIT_S = 1500.0
"""Of a command: a rank that stands still is noticed after six minutes, and killed a minute later."""


def drill(site, profile, kind, *fields):
    """What the command says of the disturbed run, after one that was not."""
    printed = site.call(
        "gmml", "drill", site.job("tiny"), *fields, "--cluster", profile, "--only", kind, "--json", limit_s=LIMIT_S
    )
    calm, found = map(json.loads, printed.splitlines())
    assert calm["causes"] == ["finished"]
    return found


def check(found, causes, least_lost):
    assert (found["problem"], found["equal"], found["causes"]) == ("", True, causes)
    assert found["steps_lost"] >= least_lost
    assert found["lost_s"] > 0


@DISTURBED
def test_a_drill_says_what_was_lost_and_that_losses_stayed_equal(workshop, kind, causes, least_lost):
    check(drill(workshop, workshop.profile(2), kind), causes, least_lost)


def test_a_rank_that_stands_still_is_named_and_costs_the_steps_since_the_checkpoint(workshop):
    check(drill(workshop, workshop.profile(2), "hang"), ["hang", "finished"], 10)


def slurm_drill(tmp_path, slurm, digits, kind):
    site = Workshop(tmp_path, f"{digits}/train/*.tar", str(tmp_path / "runs"), slurm.environment)
    section = {"partition": "low", "time": "20 min", "notice": "60 s"}
    return drill(site, site.profile(1, launcher="slurm", slurm=section), kind, *NODES)


@DISTURBED
def test_a_drill_on_two_nodes_of_slurm_says_the_same(tmp_path, slurm, digits, kind, causes, least_lost):
    check(slurm_drill(tmp_path, slurm, digits, kind), causes, least_lost)


def test_a_rank_that_stands_still_on_slurm_is_named_too(tmp_path, slurm, digits):
    check(slurm_drill(tmp_path, slurm, digits, "hang"), ["hang", "finished"], 10)


def ray_drill(workshop, ray_cluster, kind):
    workshop.extra["RAY_AUTH_MODE"] = ray_cluster.environment["RAY_AUTH_MODE"]
    return drill(workshop, workshop.profile(1, launcher="ray", ray={"address": ray_cluster.dashboard}), kind, *NODES)


@DISTURBED
def test_a_drill_on_two_nodes_of_ray_says_the_same(workshop, ray_cluster, kind, causes, least_lost):
    check(ray_drill(workshop, ray_cluster, kind), causes, least_lost)


def test_a_rank_that_stands_still_on_ray_is_named_too(workshop, ray_cluster):
    check(ray_drill(workshop, ray_cluster, "hang"), ["hang", "finished"], 10)
