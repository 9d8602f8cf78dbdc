"""How ranks left names the cause where none of them could say it."""

import os
import signal
import subprocess
import sys

import pytest

from gmml_cluster.launch.after.exits import RankExit, evidence_of, is_stopped

TIMER = [
    "step 7 of 60",
    "Timeout (0:07:00)!",
    "Thread 0x00007f (most recent call first):",
    '  File "a.py", line 3 in f',
]


@pytest.mark.parametrize(
    ("code", "output", "cause", "how"),
    [
        (137, [], "killed", "signal SIGKILL"),
        (129, [], "killed", "signal SIGHUP"),
        (139, [], "error", "signal SIGSEGV"),
        (134, [], "error", "signal SIGABRT"),
        (134, ["terminate called", "  what():  bad_alloc"], "error", "signal SIGABRT; what():  bad_alloc"),
        (3, [], "error", "exit code 3, without a word"),
        (1, TIMER, "hang", "Timeout (0:07:00)!"),
        (134, ["CUDA error: uncorrectable ECC error encountered"], "hardware", "CUDA error: uncorrectable ECC"),
        (137, ["slurmstepd: error: Detected 1 oom-kill event(s) in StepId=7.0."], "out_of_memory", "slurmstepd: "),
    ],
)
def test_a_rank_that_could_not_say_it_is_judged_by_its_exit(code, output, cause, how):
    told = evidence_of([RankExit(1, code, output=output, node="n2"), RankExit(0, 1)])
    assert (told.cause, told.node) == (cause, "n2")
    assert told.proof.startswith(f"n2, rank 1: {how}")


@pytest.mark.parametrize("code", [0, 1, 74, 77, 78, 79, 80, 143, None])
def test_a_rank_that_said_it_or_was_ended_proves_nothing(code):
    assert evidence_of([RankExit(0, code)], "x.err ends with 'y'").cause is None
    assert evidence_of([RankExit(0, code)], "x.err ends with 'y'").stderr_tail == "x.err ends with 'y'"


def test_a_rank_that_works_may_quote_a_peer_s_error():
    assert evidence_of([RankExit(0, 1, output=["W store: out of memory: Connection reset by peer"])]).cause is None


def test_the_first_rank_that_left_by_itself_counts():
    exits = [RankExit(0, 1), RankExit(2, 139), RankExit(1, 137)]
    assert evidence_of(exits).proof == "rank 2: signal SIGSEGV"


def test_a_stopped_process_is_a_hang():
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        assert not is_stopped(process.pid)
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        assert is_stopped(process.pid)
    finally:
        process.kill()
        process.wait()
    assert not is_stopped(process.pid)
    told = evidence_of([RankExit(0, 1), RankExit(1, None, stopped=True)])
    assert (told.cause, told.proof) == ("hang", "rank 1: its process is stopped by a signal")
