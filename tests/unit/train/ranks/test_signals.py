"""No notice is lost: not those held back before exec, in no order, and no watch that fails deafens the guardian."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from gmml_cluster.train.ranks.signals import Guardian, StopRequest, repeat

HELD_BACK = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)
DEADLINE_S = 20

LISTENER = """
import os, signal, sys, time
from gmml_cluster.train.ranks.signals import Guardian
guardian = Guardian()
while not set({wanted}) <= set(map(int, signal.sigpending())):
    time.sleep(0.01)
guardian.install({pipe})
print("installed", flush=True)
deadline = time.monotonic() + 20
while not guardian.orders.stop and time.monotonic() < deadline:
    time.sleep(0.01)
print(guardian.orders.stop or "nothing", flush=True)
assert "torch" not in sys.modules and "pydantic" not in sys.modules
"""


def listener(*, wanted=(), pipe=None, pass_fds=()):
    """A process started with signals blocked: waits until these are pending, says `installed`, then what it hears."""
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    try:
        code = LISTENER.format(wanted=[*map(int, wanted)], pipe=pipe)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, pass_fds=pass_fds)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)


def installed_in(process):
    assert process.stdout.readline() == "installed\n"


def said(process):
    words = process.communicate(timeout=DEADLINE_S)[0].split()
    assert process.returncode == 0
    return words[-1]


@pytest.mark.parametrize(
    "signals",
    [
        (signal.SIGTERM,),
        (signal.SIGUSR2,),
        (signal.SIGTERM, signal.SIGUSR2),
        (signal.SIGUSR2, signal.SIGTERM),
        (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM, signal.SIGUSR2),
    ],
)
def test_signals_held_back_since_before_exec_are_heard_once_installed(signals):
    process = listener(wanted=signals)
    for number in signals:
        process.send_signal(number)
    assert said(process) == "notice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_later_signal_is_heard_too(number):
    process = listener()
    installed_in(process)
    process.send_signal(number)
    assert said(process) == "notice"


def test_a_closing_pipe_is_a_notice():
    theirs, ours = os.pipe()
    process = listener(pipe=theirs, pass_fds=[theirs])
    os.close(theirs)
    installed_in(process)
    os.close(ours)
    assert said(process) == "notice"


def test_a_cancel_outranks_a_notice_in_either_order():
    for words in (("notice", "cancelled"), ("cancelled", "notice")):
        orders = StopRequest()
        for word in words:
            orders.give(word)
        assert orders.stop == "cancelled"


@pytest.fixture
def installed():
    """A guardian in this process; handlers are put back."""
    before = {number: signal.getsignal(number) for number in HELD_BACK}
    guardian = Guardian()
    guardian.install()
    yield guardian
    signal.set_wakeup_fd(-1)
    guardian.watches.clear()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_failing_watch_neither_ends_the_guardian_nor_keeps_the_others_from_their_turn(installed):
    turns = []

    def fail():
        turns.append("fails")
        raise OSError("out of reach")

    seen = threading.Event()
    installed.watches += [fail, lambda: turns.count("fails") > 1 and seen.set()]
    assert seen.wait(DEADLINE_S)
    os.kill(os.getpid(), signal.SIGUSR2)
    deadline = time.monotonic() + DEADLINE_S
    while installed.orders.stop != "notice":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_failure_that_lasts_is_told_once_and_a_new_one_again(caplog):
    faults, done = iter(["disk full"] * 5 + ["refused", "refused"]), threading.Event()

    def act():
        fault = next(faults, None)
        if fault is not None:
            raise OSError(fault)
        done.set()

    repeat(0.005, act, first_s=0.001)
    assert done.wait(DEADLINE_S)
    assert [record.message.split(";")[0] for record in caplog.records] == ["disk full", "refused"]


def test_what_is_repeated_goes_on_after_a_failure():
    turns, again = [], threading.Event()

    def act():
        turns.append(1)
        if len(turns) == 1:
            raise OSError("out of reach")
        again.set()

    repeat(0.01, act)
    assert again.wait(DEADLINE_S)
