"""`gmml drill` on this machine: every drill but the one whose hang takes minutes to notice."""

import json

import pytest

pytestmark = pytest.mark.timeout(1800)


@pytest.mark.parametrize(
    ("kind", "causes", "least_lost"),
    [
        ("preempt", ["notice", "finished"], 0),
        ("kill", ["lost", "finished"], 1),
        ("disk", ["storage", "finished"], 0),
        ("store", ["storage", "finished"], 0),
    ],
)
def test_a_drill_says_what_was_lost_and_that_losses_stayed_equal(workshop, kind, causes, least_lost):
    job, profile = workshop.job("tiny"), workshop.profile(2)
    calm, found = workshop.call("gmml", "drill", job, "--cluster", profile, "--only", kind, "--json").splitlines()
    assert json.loads(calm)["causes"] == ["finished"]
    document = json.loads(found)
    assert (document["problem"], document["equal"], document["causes"]) == ("", True, causes)
    assert document["steps_lost"] >= least_lost
    assert document["lost_s"] > 0
