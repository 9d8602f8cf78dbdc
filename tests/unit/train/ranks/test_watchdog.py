"""A rank that makes no progress is noticed in every phase, and what its threads do is written by all ranks."""

import subprocess
import sys

import pytest

from gmml_cluster.running_time import RunningTime
from gmml_cluster.store.requests import DEADLINE_S
from gmml_cluster.train.ranks.causes import describe, root_cause
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.watchdog import FIRST_S, LONGEST_S, Hang, Watchdog, stacks

SCRIPT = """
import ctypes, sys
from gmml_cluster.train.ranks import watchdog
watchdog._BLOCKED_S = 0.2
watched = watchdog.Watchdog()
watched.guard()
watched.beat("a step", 0.1)
ctypes.PyDLL(None).sleep(600)  # holds the interpreter's lock
"""


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def beats(watched, clock, phase, seconds, count=4):
    for _ in range(count):
        clock.now += seconds
        watched.beat(phase)


@pytest.mark.parametrize(
    ("seconds", "limit_s"), [(0.1, DEADLINE_S + 60), (10.0, DEADLINE_S + 200), (1000.0, LONGEST_S)]
)
def test_the_limit_of_what_repeats_follows_its_median(seconds, limit_s):
    clock = Clock()
    watched = Watchdog(clock)
    beats(watched, clock, "an evaluation", seconds)
    clock.now += limit_s - 1
    assert watched.overdue() == ""
    clock.now += 1
    assert watched.overdue().startswith(f"no progress for {limit_s:.0f} s in an evaluation; in ")


def test_the_start_and_the_first_of_each_phase_may_compile_and_a_save_has_a_limit_of_its_own():
    clock = Clock()
    watched = Watchdog(clock)
    for phase, limit_s in (("the start", FIRST_S), ("a step", FIRST_S), ("a save", 2000.0), ("a pass", FIRST_S)):
        if phase != "the start":
            watched.beat(phase, 2000.0 if phase == "a save" else None)
        clock.now += limit_s - 1
        assert watched.overdue() == ""
        clock.now += 1
        assert f"in {phase};" in watched.overdue()


def test_what_lies_between_two_steps_does_not_count_for_the_steps():
    clock = Clock()
    watched = Watchdog(clock)
    beats(watched, clock, "a step", 1.0)
    for _ in range(5):
        watched.beat("an evaluation")
        clock.now += 1500
        beats(watched, clock, "a step", 1.0, count=2)
    clock.now += DEADLINE_S + 60
    assert watched.overdue()


def test_a_hang_counts_as_one_and_follows_from_another_rank_s_own_error():
    hang, own = (
        describe(error, RankInfo(rank, 2, rank, 2)) for rank, error in enumerate((Hang("h"), ValueError("own")))
    )
    assert (hang["kind"], hang["cause"]) == ("timeout", "hang")
    assert root_cause([hang, own]) is own


def test_stacks_name_threads_and_calls():
    assert "thread MainThread:" in stacks()
    assert "test_stacks_name_threads_and_calls" in stacks()


def test_a_process_whose_interpreter_is_blocked_prints_its_stacks_and_ends():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=240)
    assert done.returncode == 1
    assert "Timeout (" in done.stderr
    assert "<string>" in done.stderr


def test_time_in_which_the_process_was_stopped_does_not_count():
    clock = Clock()
    running = RunningTime(clock)
    running.tick()
    watched = Watchdog(running)
    for _ in range(4):
        clock.now += 1
        running.tick()
        watched.beat("a step")
    clock.now += 7200
    assert watched.overdue() == ""
    for _ in range(int(DEADLINE_S) + 60):
        clock.now += 1
        running.tick()
    assert "no progress" in watched.overdue()


def test_the_timer_does_not_end_a_process_that_was_suspended_and_guards_it_again_afterwards():
    code = f"""{SCRIPT.partition("ctypes.PyDLL")[0]}
import time
watched.pause()
watched.beat("a step", 0.1)
time.sleep(1.5)
print("lived", flush=True)
watched.go_on()
ctypes.PyDLL(None).sleep(600)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (1, "lived\n")
    assert "Timeout (" in done.stderr
