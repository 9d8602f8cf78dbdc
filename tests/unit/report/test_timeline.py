"""The timeline adds up to the account of goodput, and lies where the log says."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.report.timeline import merged, parts_of, saves_of, spans_of
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.goodput import KINDS
from tests.fixtures.reports import BEGAN, preempted_run
from tests.unit.run.test_goodput import Clock, attempt_of, latest, leave


class Recorded(Clock):
    """Keeps the entries too."""

    def __init__(self):
        self.entries = []
        super().__init__()

    def entry(self, kind, attempt=None, **fields):
        slot = self.history.slots
        self.entries.append(Entry(slot, kind, attempt, "r", f"t{slot}", self.now, fields))
        super().entry(kind, attempt, **fields)


def written(attempts):
    clock = Recorded()
    clock.submit()
    for before, attempt in pairwise([{"ending": "saved"}, *attempts]):
        queue = 0 if before["ending"] == "lost" else attempt["queue"]
        clock.start(queue, *(attempt[name] for name in ("importing", "loading", "ranks")), latest(clock))
        for span in attempt["spans"]:
            clock.commit(*span)
        leave(clock, attempt)
    clock.start(0, 0, 0, 1, latest(clock))
    return clock


def rank_seconds(spans):
    found = dict.fromkeys(KINDS, 0.0)
    for span in spans:
        for kind, seconds in span.seconds.items():
            found[kind] += seconds * span.ranks
    return found


@settings(max_examples=40)
@given(st.lists(attempt_of, min_size=1, max_size=4), st.integers(1, 30))
def test_spans_add_up_to_the_account_also_when_they_are_merged(attempts, most):
    clock = written(attempts)
    spans = spans_of(clock.entries)
    assert rank_seconds(spans) == pytest.approx(clock.settled())
    assert rank_seconds(merged(spans, most)) == pytest.approx(clock.settled())
    drawn = [part for part in parts_of(spans) if part.end > part.start]
    assert all(one.end <= other.start + 1e-6 for one, other in pairwise(sorted(drawn, key=lambda part: part.start)))


def test_steps_behind_the_checkpoint_that_is_continued_are_shown_as_replayed():
    clock = Recorded()
    clock.submit()
    clock.start(0, 0, 0, 2)
    for _ in range(2):
        clock.commit(100, 0, 0, 0, 0)
    clock.entry("end", 1, cause="error", step=19)
    clock.start(0, 0, 0, 2, clock.history.commits[0])
    assert [dict(span.seconds) for span in spans_of(clock.entries)] == [{"training": 100}, {"replayed": 100}]


def test_a_preempted_run_lies_where_its_log_says(tmp_path):
    run = preempted_run(tmp_path, "one")
    entries = list(run.log.read())
    parts = [
        (part.kind, part.start - BEGAN, part.end - BEGAN, part.span.attempt) for part in parts_of(spans_of(entries))
    ]
    assert parts[0] == ("queued", 0, 30, 1)
    assert parts[1:3] == [("starting", 30, 43, 1), ("restoring", 43, 45, 1)]
    kinds = [kind for kind, *_ in parts if kind not in ("data_wait", "checkpoint_stall")]
    again = ["queued", "starting", "restoring", "training"]
    assert kinds == [*again, "replayed", *again]
    assert [(save.step, save.attempt) for save in saves_of(entries)] == [(49, 1), (99, 2)]
