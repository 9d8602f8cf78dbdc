"""Time in which a process is stopped is no time to it, and all other time is."""

import signal
import subprocess
import sys
import time
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.running_time import MOST_S, RunningTime

SCRIPT = """
import time
from gmml_cluster import running_time as module
module.TICK_S, module.MOST_S = 0.05, 0.2
running = module.RunningTime()
running.start()
began, counted = time.monotonic(), running()
print("started", flush=True)
input()
print(time.monotonic() - began - (running() - counted), flush=True)
"""


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@given(st.lists(st.tuples(st.floats(0, 1e6), st.booleans()), max_size=40))
def test_it_never_runs_backwards_nor_faster_than_the_clock(spans):
    clock = Clock()
    running = RunningTime(clock)
    running.tick()
    seen = [(clock.now, running())]
    for seconds, ticks in spans:
        clock.now += seconds
        if ticks:
            running.tick()
        seen.append((clock.now, running()))
    for (before, counted_before), (now, counted) in pairwise(seen):
        assert 0 <= counted - counted_before <= now - before + 1e-6


@given(st.lists(st.floats(0, MOST_S), max_size=40))
def test_time_that_its_thread_sees_pass_counts_in_full(spans):
    clock = Clock()
    running = RunningTime(clock)
    running.tick()
    for seconds in spans:
        clock.now += seconds
        running.tick()
    assert abs(running() - clock.now) < 1e-6


@given(st.floats(MOST_S, 1e7))
def test_a_suspension_counts_a_moment_however_long_it_was(seconds):
    clock = Clock()
    running = RunningTime(clock)
    running.tick()
    before = running()
    clock.now += seconds
    assert running() - before == MOST_S, "before its thread looks"
    running.tick()
    assert running() - before == MOST_S, "and after it"
    assert abs(running.stopped_s - (seconds - MOST_S)) < 1e-2


def test_a_process_that_was_stopped_counts_less_than_the_kernel():
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "started\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        left_out = float(process.communicate("\n", timeout=60)[0])
    finally:
        process.kill()
        process.wait()
    assert left_out > 2
