"""When maps are made: METHODS' rule, in exact arithmetic."""

import pytest

from gmml_cluster.plan.refreshes import refreshes
from gmml_cluster.plan.sample_layout import CorpusShape, make_layout
from gmml_cluster.spec.scalars import Length


def layout(samples=1000, batch=64):
    return make_layout(seed=0, batch=batch, group=8, corpora=[CorpusShape(1.0, (samples,))])


def planned(start, interval, steps, **more):
    return refreshes(Length.model_validate(start), Length.model_validate(interval), layout(**more), steps)


def test_passes_lie_whole_intervals_apart_rounded_up_and_none_after_the_last_step():
    found = planned("41 epochs", "40 epochs", 6250)  # 15.625 steps an epoch, 400 epochs
    assert found.steps == tuple(625 * k for k in range(1, 10))
    assert found.start == 641
    assert [found.at(step) for step in (0, 625, 640, 641, 1249, 1250)] == [None, None, None, 625, 625, 1250]
    assert [found.number(step) for step in found.steps] == list(range(1, 10))
    assert planned("3 epochs", "3 epochs", 200).steps == (47, 94, 141, 188), "46.875, 93.75, 140.625, 187.5"


def test_maps_that_nothing_would_read_are_not_made():
    assert planned("100 steps", "30 steps", 200).steps == (90, 120, 150, 180)
    assert planned("90 steps", "30 steps", 200).steps == (90, 120, 150, 180)
    assert planned("200 steps", "30 steps", 190).steps == (180,), "the run may grow"
    assert planned("200 steps", "30 steps", 300).steps == (180, 210, 240, 270)
    assert planned("10 steps", "30 steps", 30).steps == ()


@pytest.mark.parametrize(
    ("interval", "steps"), [("1 steps", (5, 6, 7)), ("10 samples", (5, 6, 7)), ("2 steps", (4, 6))]
)
def test_any_unit_counts(interval, steps):
    assert planned("5 steps", interval, 8).steps == steps


def test_an_interval_below_a_step_costs_no_time():
    assert planned("5 steps", "1 samples", 10**6).steps[:2] == (5, 6)
