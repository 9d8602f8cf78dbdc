"""The interval of `checkpoint.every: auto` is Young's, within bounds, from the interruptions that the log records."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.run.history import Attempt, History
from gmml_cluster.run.saving.interval import between_interruptions_s, save_interval_s

HOUR = 3600.0


def attempt(number, began, ended, cause):
    return Attempt(number, "s", "1", 0, began, "c", ended=cause, end_time=ended)


def history(*attempts):
    return History(attempts=attempts)


@pytest.mark.parametrize(("cost_s", "between_h", "expected_s"), [(2, 24, 587.9), (30, 24, 2276.8), (10, 2, 379.5)])
def test_the_interval_is_youngs_optimum(cost_s, between_h, expected_s):
    assert save_interval_s(cost_s, between_h * HOUR) == pytest.approx(expected_s, abs=0.1)


@given(st.floats(0.1, 20), st.floats(1 * HOUR, 48 * HOUR))
def test_no_other_interval_wastes_less_to_first_order(cost_s, between_s):
    def waste(interval_s):
        return cost_s / interval_s + interval_s / (2 * between_s)

    best = save_interval_s(cost_s, between_s)
    if 60 < best < HOUR:
        assert all(waste(best) <= waste(best * factor) for factor in (0.5, 0.9, 1.1, 2.0))


def test_it_stays_between_a_minute_and_an_hour_and_begins_with_ten():
    assert save_interval_s(1e-3, HOUR) == 60
    assert save_interval_s(600, 1000 * HOUR) == HOUR
    assert save_interval_s(None, HOUR) == 600


def test_a_new_run_is_taken_to_be_interrupted_once_a_day():
    assert between_interruptions_s(history(attempt(1, 0.0, None, None)), 0.0) == 24 * HOUR


def test_time_that_ran_well_lengthens_it_and_interruptions_shorten_it():
    calm = history(attempt(1, 0.0, None, None))
    assert between_interruptions_s(calm, 24 * HOUR) == 48 * HOUR
    lost = [attempt(n, n * HOUR, (n + 1) * HOUR, "lost") for n in range(5)]
    assert between_interruptions_s(history(*lost), 99 * HOUR) == pytest.approx((24 + 5) * HOUR / 6)


def test_what_a_person_asked_for_and_a_clock_set_back_count_for_nothing():
    asked = [attempt(n, HOUR, 0.0, cause) for n, cause in enumerate(("finished", "cancelled", "fenced"))]
    assert between_interruptions_s(history(*asked), HOUR) == 24 * HOUR


def test_the_resolved_cause_decides():
    resolved = replace(attempt(1, 0.0, 0.0, "notice"), resolved="cancelled")
    assert between_interruptions_s(history(resolved), 0.0) == 24 * HOUR
    assert between_interruptions_s(history(replace(resolved, resolved="preempted")), 0.0) == 12 * HOUR
