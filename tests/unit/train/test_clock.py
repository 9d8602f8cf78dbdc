"""When a save by time is due, by the job's word and the saver's clock."""

from types import SimpleNamespace

import pytest

from gmml_cluster.run.history import History
from gmml_cluster.spec.scalars import Interval
from gmml_cluster.train.records import save_clock


def is_due(every, *, age_s, cost_s=None, busy=False, failed=None):
    interval = Interval.model_validate(every)
    return save_clock(interval, History(), SimpleNamespace(busy=busy, age_s=age_s, cost_s=cost_s, failed=failed))()


@pytest.mark.parametrize(
    ("every", "cost_s", "first_due_s"),
    [("30 s", None, 30), ("30 s", 9.0, 30), ("auto", None, 600), ("auto", 2.0, 588)],
)
def test_a_save_is_due_once_the_interval_has_passed(every, cost_s, first_due_s):
    assert not is_due(every, age_s=first_due_s - 1, cost_s=cost_s)
    assert is_due(every, age_s=first_due_s, cost_s=cost_s)


def test_none_is_due_while_one_is_in_flight_or_where_steps_decide():
    assert not is_due("30 s", age_s=99, busy=True)
    assert not is_due("5 steps", age_s=1e6)


@pytest.mark.parametrize("every", ["5 steps", "3600 s", "auto"])
def test_a_save_that_failed_is_tried_again_after_a_minute_whatever_the_interval(every):
    assert not is_due(every, age_s=59, cost_s=9.0, failed=OSError())
    assert is_due(every, age_s=60, cost_s=9.0, failed=OSError())
    assert not is_due(every, age_s=60, cost_s=9.0, failed=OSError(), busy=True)
