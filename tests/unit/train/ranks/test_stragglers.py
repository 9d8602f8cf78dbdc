"""A rank that keeps the others waiting for a hundred steps is named, and no other."""

import pytest
import torch

from gmml_cluster.train.ranks.stragglers import STEPS, ForwardClock, Stragglers


def slow_after(steps, own_s, step_s=1.0, found=None):
    found = found or Stragglers()
    for _ in range(steps):
        found.add(own_s, step_s)
    return found


@pytest.mark.parametrize(("ranks", "slow"), [(2, 0), (2, 1), (3, 1), (8, 5)])
def test_a_rank_is_named_after_a_hundred_slow_steps_and_not_before(ranks, slow):
    own_s = [0.2 + 0.1 * (rank == slow) for rank in range(ranks)]
    found = slow_after(STEPS - 1, own_s)
    assert found.slow == []
    assert found.add(own_s, 1.0) == [slow]


def test_two_of_eight_are_both_named():
    assert slow_after(STEPS, [0.2] * 6 + [0.4, 0.3]).slow == [6, 7]


@pytest.mark.parametrize(
    ("own_s", "step_s"),
    [
        ([0.5], 1.0),  # nobody waits for it
        ([0.2, 0.24], 1.0),  # less than a quarter
        ([0.02, 0.04], 1.0),  # nothing of the step
        ([0.2, 0.2, 0.2], 0.3),
    ],
)
def test_what_costs_the_others_nothing_is_not_named(own_s, step_s):
    assert slow_after(10 * STEPS, own_s, step_s).slow == []


def test_a_slow_step_now_and_then_is_not_named_and_a_good_one_among_a_hundred_bad_changes_nothing():
    now_and_then = Stragglers()
    for step in range(2000):
        now_and_then.add([0.2, 0.4 if step % 5 == 0 else 0.2], 1.0)
    assert now_and_then.slow == []
    found = slow_after(STEPS, [0.2, 0.4])
    assert found.add([0.2, 0.2], 1.0) == [1]


def test_a_rank_that_has_recovered_is_named_no_more():
    found = slow_after(STEPS, [0.2, 0.4])
    assert slow_after(STEPS // 4, [0.2, 0.2], found=found).slow == []


def test_the_clock_of_a_cpu_has_the_pass_at_once():
    clock = ForwardClock(torch.device("cpu"))
    with clock.timed() as events:
        torch.ones(10) @ torch.ones(10)
    assert events is None
    clock.read(events)
    assert clock.seconds > 0
