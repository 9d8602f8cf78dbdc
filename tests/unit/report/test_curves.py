"""Curves of a run: their axes, and what is said of them."""

import pytest

from gmml_cluster.report.curves import curves_of
from gmml_cluster.run.uploads import metric_lines
from tests.fixtures.reports import line, preempted_run


def curves(run, most=1000):
    return curves_of(metric_lines(run.store, run.log.refresh()), list(run.log.read()), most)


def test_steps_lie_in_time_as_the_log_says_and_replayed_ones_count_once(tmp_path):
    found = curves(preempted_run(tmp_path, "one"))
    assert list(found.last) == list(range(100))
    seconds = found.hours * 3600
    assert (seconds[1:] > seconds[:-1]).all()
    assert seconds[49] == pytest.approx(45 + 5)  # the commit of the first attempt
    # the second begins after 1.6 s of steps in vain, 60 s in the queue and 15 s of start
    assert seconds[50] == pytest.approx(50 + 1.6 + 75 + 0.1)


def test_extremes_are_of_all_steps_and_not_of_what_is_drawn(tmp_path):
    lines = [line(step, loss=None if step == 7 else 100.0 if step == 41 else 1.0) for step in range(100)]
    found = curves(preempted_run(tmp_path, "one", lines=lines), most=5)
    assert len(found.last) == 5
    assert found.extremes["loss"].greatest == (100.0, 41)
    assert found.not_finite == [7]
    assert found.bands["loss"].greatest.max() == 100.0


def test_a_run_without_a_line_has_no_curve():
    found = curves_of([], [], 10)
    assert (found.steps, dict(found.bands), len(found.last)) == (0, {}, 0)
