"""No notice is lost: not those blocked before exec, in no order, nor behind a check that fails."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from gmml_cluster.run.codes import COME_BACK
from gmml_cluster.train.ranks.signals import TICK_S, SignalThread, StopRequest, repeat

HELD_BACK = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)
DEADLINE_S = 20

LISTENER = """
import os, signal, sys, time
from gmml_cluster.train.ranks.signals import SignalThread
signals = SignalThread()
signals.check = {check}
while not set({wanted}) <= set(map(int, signal.sigpending())):
    time.sleep(0.01)
signals.install({pipe})
print("installed", flush=True)
deadline = time.monotonic() + 20
while not signals.stop_request.stop and time.monotonic() < deadline:
    time.sleep(0.01)
print(signals.stop_request.stop or "nothing", flush=True)
assert "torch" not in sys.modules and "pydantic" not in sys.modules
"""


@pytest.fixture
def start():
    """Starts a process with this code; what is left of it is killed, as it would keep the output of the tests open."""
    started = []

    def begun(code, **options):
        started.append(subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, **options))
        return started[-1]

    yield begun
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def listener(start):
    """A process started with signals blocked: waits until these are pending, prints `installed`, then the request."""

    def begun(*, wanted=(), pipe=None, pass_fds=(), check="lambda: None"):
        signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
        try:
            return start(LISTENER.format(wanted=[*map(int, wanted)], pipe=pipe, check=check), pass_fds=pass_fds)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_BACK)

    return begun


def installed_in(process):
    assert process.stdout.readline() == "installed\n"


def requested(process):
    output = process.communicate(timeout=DEADLINE_S)[0].split()
    assert process.returncode == 0
    return output[-1]


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
def test_signals_held_back_since_before_exec_are_received_once_installed(listener, signals):
    process = listener(wanted=signals)
    for number in signals:
        process.send_signal(number)
    assert requested(process) == "notice"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_a_later_signal_is_received_too(listener, number):
    process = listener()
    installed_in(process)
    process.send_signal(number)
    assert requested(process) == "notice"


def test_a_closing_pipe_is_a_notice(listener):
    theirs, ours = os.pipe()
    process = listener(pipe=theirs, pass_fds=[theirs])
    os.close(theirs)
    installed_in(process)
    os.close(ours)
    assert requested(process) == "notice"


def test_a_cancel_outranks_a_notice_in_either_order():
    for order in (("notice", "cancelled"), ("cancelled", "notice")):
        request = StopRequest()
        for stop in order:
            request.give(stop)
        assert request.stop == "cancelled"


@pytest.fixture
def installed():
    """A signal thread in this process; handlers are put back."""
    before = {number: signal.getsignal(number) for number in HELD_BACK}
    signals = SignalThread()
    signals.check = lambda: None
    signals.install()
    yield signals
    signal.set_wakeup_fd(-1)
    signals.check = lambda: None
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_notice_before_the_ranks_have_met_ends_the_process_at_once(listener):
    process = listener(check="signals.check")
    installed_in(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == COME_BACK


def test_whoever_wants_to_know_hears_of_every_notice(installed):
    heard = threading.Semaphore(0)
    installed.noticed = heard.release
    for number in (signal.SIGUSR2, signal.SIGTERM):
        os.kill(os.getpid(), number)
        assert heard.acquire(timeout=DEADLINE_S)


def test_suspensions_are_announced_and_ended_in_their_order(start):
    code = """
import os, signal, sys, threading
from gmml_cluster.train.ranks import signals
watched = signals.SignalThread()
watched.check = lambda: None
watched.pause, watched.go_on = lambda: print("pause", flush=True), lambda: print("go on", flush=True)
watched.install()
print("installed", flush=True)
threading.Event().wait()
"""
    process = start(code)
    installed_in(process)
    for _ in range(2):  # as where jobs run in turns
        process.send_signal(signal.SIGTSTP)
        assert process.stdout.readline() == "pause\n"
        process.send_signal(signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == "go on\n"


def test_where_both_are_heard_at_once_the_later_one_counts():
    heard, watched = [], SignalThread()
    watched.pause, watched.go_on = lambda: heard.append("pause"), lambda: heard.append("go on")
    for order, said in (("CONT TSTP", ["go on", "pause"]), ("TSTP CONT", ["pause", "go on"])):
        heard.clear()
        source, written = socket.socketpair()
        with source, written:
            written.send(bytes(getattr(signal, f"SIG{name}") for name in order.split()))
            watched._receive(source)
        assert heard == said


def test_a_silenced_thread_neither_logs_nor_exits(installed, caplog):
    caplog.set_level(logging.INFO)
    checked = threading.Event()
    installed.silence()
    installed.check = checked.set
    os.kill(os.getpid(), signal.SIGTERM)
    assert not checked.wait(3 * TICK_S)
    assert (installed.stop_request.stop, caplog.text) == ("", "")


def test_a_check_that_fails_is_called_again_and_signals_are_noticed(installed):
    turns, seen = [], threading.Event()

    def fail():
        turns.append("fails")
        if len(turns) > 1:
            seen.set()
        raise OSError("out of reach")

    installed.check = fail
    assert seen.wait(DEADLINE_S)
    os.kill(os.getpid(), signal.SIGUSR2)
    deadline = time.monotonic() + DEADLINE_S
    while installed.stop_request.stop != "notice":
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_failure_that_lasts_is_logged_once_and_a_new_one_again(caplog):
    faults, done = iter(["disk full"] * 5 + ["refused", "refused"]), threading.Event()

    def act():
        fault = next(faults, None)
        if fault is not None:
            raise OSError(fault)
        done.set()
        threading.Event().wait()  # nobody ends this thread: let it sleep

    repeat(0.005, act, first_s=0.001)
    assert done.wait(DEADLINE_S)
    assert [record.message.split(";")[0] for record in caplog.records] == ["disk full", "refused"]


def test_what_is_repeated_continues_after_a_failure():
    turns, again = [], threading.Event()

    def act():
        turns.append(1)
        if len(turns) == 1:
            raise OSError("out of reach")
        again.set()
        threading.Event().wait()

    repeat(0.01, act)
    assert again.wait(DEADLINE_S)
