"""Every second of every rank is accounted for, once, under its kind."""

import json
import re
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.run.entries import Entry
from gmml_cluster.run.fold import fold
from gmml_cluster.run.goodput import KINDS, RankTimeAccount, accounted
from gmml_cluster.run.history import History, from_sum

PAGE = Path(__file__).parents[3] / "docs" / "explanation" / "goodput.md"
seconds = st.integers(0, 50)


class Clock:
    """Writes a log as time passes, and keeps its own account of where the time goes."""

    def __init__(self):
        self.now, self.history, self.truth = 1000, History(), dict.fromkeys(KINDS, 0)
        self.entry("open")
        self.attempts = 0

    def entry(self, kind, attempt=None, **fields):
        entry = Entry(self.history.slots, kind, attempt, "r", f"t{self.history.slots}", self.now, fields)
        self.history = fold(self.history, entry)

    def spend(self, kind, span, ranks):
        self.truth[kind] += span * ranks
        self.now += span

    def suspend(self, span):
        """The scheduler stops the ranks for so long; the attempt's entries from now on have it."""
        self.suspended += span
        self.spend("suspended", span, self.ranks)

    def submit(self):
        self.entry("submit", launcher="local", code="c", changed={}, bounds={})

    def start(self, queue, importing, loading, ranks, resumed=None, suspended=0):
        """A queue, then ranks that start, load and begin."""
        self.attempts += 1
        self.ranks, self.number, self.suspended = ranks, self.attempts, 0
        self.spend("queued", queue, ranks)
        self.spend("starting", importing, ranks)
        self.entry("claim", self.number, submit="s", job="j", restart=0, topology={"ranks": ranks}, start_s=importing)
        self.spend("restoring", loading, ranks)
        self.suspend(suspended)
        step = 0 if resumed is None else resumed.step + 1
        origin = None if resumed is None else {"step": resumed.step, "attempt": resumed.attempt}
        fields = {"micro": 8, "start_s": 0, "load_s": loading, "suspended_s": self.suspended}
        self.entry("begin", self.number, resumed=origin, step=step, **fields)
        self.step = step

    def commit(self, training, wait, stall, evaluation, saving, suspended=0):
        """Steps, then a checkpoint whose save lasts beside the next steps, which the next span counts."""
        if evaluation:
            self.spend("evaluation", evaluation, self.ranks)
            self.entry("score", self.number, seconds=evaluation)
        for kind, span in (("training", training), ("data_wait", wait), ("checkpoint_stall", stall)):
            self.spend(kind, span, self.ranks)
        self.suspend(suspended)
        self.step += 10
        copied = self.now
        self.now += saving
        fields = {"step": self.step - 1, "manifest": "m", "bytes": 1, "data_wait_s": wait, "stall_s": stall}
        self.entry("commit", self.number, seconds=saving, suspended_s=self.suspended, **fields)
        self.now = copied

    def settled(self, at_work=False):
        return accounted(self.history.account, self.now, at_work=at_work, ranks=2)


spans = st.tuples(seconds, seconds, seconds, seconds, seconds, seconds)
attempt_of = st.fixed_dictionaries(
    {
        "queue": seconds,
        "importing": seconds,
        "loading": seconds,
        "ranks": st.integers(1, 8),
        "spans": st.lists(spans, max_size=4),
        "suspended": seconds,
        "leaving": seconds,
        "ending": st.sampled_from(["saved", "behind", "lost", "resubmitted"]),
        "idle": seconds,
    }
)


@settings(max_examples=60, deadline=None)
@given(st.lists(attempt_of, min_size=1, max_size=5))
def test_each_kind_gets_what_the_ranks_spent_on_it_whatever_happened(attempts):
    clock = Clock()
    clock.submit()
    for before, attempt in pairwise([{"ending": "saved"}, *attempts]):
        if before["ending"] == "lost":
            attempt["queue"] = 0  # the log does not separate it from the time that the ranks were there
        starting = (attempt[name] for name in ("queue", "importing", "loading", "ranks"))
        clock.start(*starting, latest(clock), attempt["suspended"])
        for span in attempt["spans"]:
            clock.commit(*span)
        leave(clock, attempt)
    clock.start(0, 0, 0, 1, latest(clock))  # only the next claim knows how long an attempt without an `end` lasted
    assert clock.settled() == pytest.approx(clock.truth)
    again = from_sum(json.loads(json.dumps(clock.history.to_sum())))
    assert again == clock.history


def latest(clock):
    return clock.history.commits[-1] if clock.history.commits else None


def leave(clock, attempt):
    """The ranks of an attempt end in one of four ways, and the next ones are awaited from then on."""
    ending, last = attempt["ending"], clock.step - 1
    if ending in ("saved", "behind"):
        saved = ending == "saved" and bool(attempt["spans"])
        clock.spend("checkpoint_stall" if saved else "replayed", attempt["leaving"], clock.ranks)
        clock.suspend(attempt["suspended"])
        step = last if saved else last + 1
        clock.entry("end", clock.number, cause="notice", step=step, suspended_s=clock.suspended)
    else:  # nobody saw the end: a person submits, or the job's next start comes by itself
        clock.spend("lost", attempt["leaving"], clock.ranks)
        if ending == "resubmitted":
            clock.submit()
    if ending == "saved":  # a person waits, then submits: no rank is wanted meanwhile
        clock.now += attempt["idle"]
        clock.submit()


def test_the_example_of_the_page_adds_up():
    rows = re.findall(r"^\| `(\w+)`.*= ([\d,]+) \|$", PAGE.read_text(), re.MULTILINE)
    shown = {kind: int(number.replace(",", "")) for kind, number in rows}
    clock = Clock()
    clock.submit()
    clock.start(queue=60, importing=30, loading=10, ranks=8)
    clock.commit(training=490, wait=40, stall=10, evaluation=0, saving=0)
    leave(clock, {"ending": "behind", "spans": [()], "suspended": 0, "leaving": 65})
    clock.start(queue=60, importing=30, loading=5, ranks=8, resumed=latest(clock))
    clock.commit(training=600, wait=0, stall=0, evaluation=0, saving=0)
    leave(clock, {"ending": "saved", "spans": [()], "suspended": 0, "leaving": 5, "idle": 0})
    assert {kind: rank_s for kind, rank_s in clock.settled().items() if rank_s} == pytest.approx(shown)
    assert f"**{sum(shown.values()):,}**" in PAGE.read_text()


def test_steps_of_a_damaged_checkpoint_are_moved_from_training_to_replayed():
    clock = Clock()
    clock.submit()
    clock.start(0, 0, 0, 2)
    for _ in range(2):
        clock.commit(100, 0, 0, 0, 0)
    clock.entry("end", 1, cause="error", step=19)
    clock.start(0, 0, 0, 2, clock.history.commits[0])
    found = clock.settled()
    assert (found["training"], found["replayed"]) == (200, 200)


def test_what_an_attempt_at_work_has_not_saved_is_told_apart_and_a_queue_counts_for_the_ranks_it_asks_for():
    clock = Clock()
    clock.submit()
    clock.now += 30
    assert clock.settled(at_work=True)["queued"] == 60
    clock.start(0, 5, 0, 4)
    clock.now += 7
    assert clock.settled(at_work=True)["unsaved"] == 28
    assert clock.settled(at_work=False)["unsaved"] == 0


def test_clocks_that_go_back_and_sums_that_do_not_fit_make_no_time():
    clock = Clock()
    clock.submit()
    clock.start(0, 5, 0, 1)
    clock.commit(10, 0, 0, 0, 0)
    before = sum(clock.settled().values())
    clock.now -= 3600
    clock.entry("commit", 1, step=20, manifest="m", bytes=1, seconds=9, data_wait_s=1e9, stall_s=1e9)
    assert sum(clock.settled().values()) == before
    clock.now += 3600 + 10
    clock.entry("commit", 1, step=30, manifest="m", bytes=1, seconds=0, data_wait_s=30.0, stall_s=10.0)
    found = clock.settled()
    assert sum(found.values()) == pytest.approx(before + 10)
    assert (found["data_wait"], found["checkpoint_stall"]) == pytest.approx((7.5, 2.5))


def test_a_start_that_failed_was_awaited_and_logs_of_earlier_versions_count_as_training():
    clock = Clock()
    clock.submit()
    clock.now += 10
    clock.entry("end", None, cause="start_failed", submit="s", message="no GPU")
    clock.now += 5
    clock.entry("claim", 1, submit="s", job="j", restart=1, layout={"ranks": 2})
    clock.entry("begin", 1, resumed=None, step=0)
    clock.now += 20
    clock.entry("commit", 1, step=9, manifest="m", bytes=1)
    found = clock.settled()
    assert (found["queued"], found["training"]) == (30, 40)
    assert json.loads(json.dumps(asdict(clock.history.account))) == asdict(
        RankTimeAccount(**asdict(clock.history.account))
    )
