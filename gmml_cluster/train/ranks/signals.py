"""The signal thread: reacts to signals, the launcher's pipe, failing peers and the log while the main thread is busy.

Python runs signal handlers between bytecodes of the main thread, and a collective that waits for a dead peer is one
bytecode that may take an hour. So the handlers do nothing, and the kernel's wake-up descriptor wakes this thread.
Imports neither torch nor pydantic: it is installed before them, while the launcher still blocks the signals.
"""

import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from gmml_cluster.run.codes import COME_BACK, ORPHAN_S

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
TICK_S = 0.5

_log = logging.getLogger(__name__)


@dataclass
class StopRequest:
    """What this rank is asked to do; the signal thread writes, the loop reads."""

    stop: Literal["", "notice", "cancelled"] = ""
    orphaned: str = ""
    """What the launcher wants to be logged where its process is gone; empty where it is not, or says nothing."""
    grown: str = ""
    """Where the notice is rank 0's own, for more nodes: what proves that there are some."""

    def give(self, stop: Literal["notice", "cancelled"]) -> None:
        """Ask for a stop; a cancel outranks a notice."""
        if self.stop != "cancelled":
            self.stop = stop


@dataclass
class SignalThread:
    """Runs beside one rank, from before torch is imported until the process exits.

    Attributes:
        check: called at every tick (0.5 s) in this thread, so it must be quick: while it waits, no signal is noticed.
            If it raises, the error is logged and it is called again at the next tick. At first it ends the process
            where a stop is requested: before the ranks have met there is nothing to save and no rank to inform.
        noticed: called at every signal that is a notice, in this thread, so it must be quick too.
        pause: called before a suspension that is announced.
        go_on: called after it.
    """

    stop_request: StopRequest = field(default_factory=StopRequest)
    check: Callable[[], None] = lambda: None
    noticed: Callable[[], None] = lambda: None
    pause: Callable[[], None] = lambda: None
    go_on: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.check = self._leave_before_meeting
        self._silence = threading.Lock()

    def install(self, pipe: int | None = None) -> None:
        """Notice signals from now on, also those that were blocked since the launcher started this process.

        Args:
            pipe: descriptor whose closing means that the supervisor is gone; counts as a notice.
        """
        wakeup, self._written = socket.socketpair()
        self._written.setblocking(False)
        # An empty handler and not SIG_IGN: Python writes to the descriptor only for signals that have a handler. SLURM
        # sends CONT along with TERM, and the launcher blocks both. Where it suspends a job it sends TSTP, then STOP.
        for number in (*STOP_SIGNALS, signal.SIGCONT, signal.SIGTSTP):
            signal.signal(number, lambda *_: None)
        # before unblocking: a pending signal is delivered at once, and without the descriptor it would be lost
        signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCONT))
        self._sources: list[Any] = [wakeup] if pipe is None else [wakeup, pipe]
        threading.Thread(target=self._run, name="signals", daemon=True).start()

    def silence(self) -> None:
        """Once this returns, the thread does and prints nothing more.

        A launcher quotes the last line of a failed rank's stderr. When one rank fails, SLURM terminates all, the
        failed one included: its last line would then be about that signal, or it would end before its own error is
        printed.
        """
        self._silence.acquire()  # waits for a reaction under way, and is never released

    def _run(self) -> None:
        problem = ""
        while True:
            ready = select.select(self._sources, [], [], TICK_S)[0]
            with self._silence:
                for source in ready:
                    self._receive(source)
                problem = _attempt(self.check, problem)

    def _receive(self, source: Any) -> None:
        if isinstance(source, socket.socket):
            received = list(source.recv(256))
            asked = [number for number in received if number in STOP_SIGNALS]
            if asked:
                _log.info("%s received: this rank saves its state, if it has any, and exits", _named(asked[0]))
                self.stop_request.give("notice")
                self.noticed()
            for number in received:  # in order: where jobs run in turns, the next suspension follows soon
                if number == signal.SIGTSTP:
                    self.pause()
                elif number == signal.SIGCONT:
                    self.go_on()
        elif not os.read(source, 1):
            _log.info("the supervisor is gone: this rank saves its state, if it has any, and exits")
            self._sources.remove(source)
            self.stop_request.orphaned = os.environ.get("GMML_ORPHANED", "")
            self.stop_request.give("notice")
            _exit_at_the_latest(ORPHAN_S)

    def _leave_before_meeting(self) -> None:
        if self.stop_request.stop:
            os._exit(COME_BACK)


def _named(number: int) -> str:
    return signal.Signals(number).name


def _exit_at_the_latest(seconds: float) -> None:
    """A rank that hangs would hold the run's lock, so that nobody could resume it, and no supervisor kills it."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def repeat(seconds: float, action: Callable[[], None], first_s: float | None = None) -> None:
    """Call `action` every so often in a thread of its own, so that slow storage cannot block signal handling.

    Args:
        seconds: between two calls.
        action: a failure is logged, and it is called again.
        first_s: before the first call; the pause doubles from there on until it is `seconds`, which is the default.
    """

    def run() -> None:
        pause, problem = first_s or seconds, ""
        while True:
            time.sleep(pause)
            problem = _attempt(action, problem)
            pause = min(2 * pause, seconds)

    threading.Thread(target=run, name="repeating", daemon=True).start()


def _attempt(action: Callable[[], None], logged: str) -> str:
    """Why the action failed, empty where it did not; logged unless it was the last time (a full disk lasts hours)."""
    try:
        action()
    except Exception as error:
        if str(error) != logged:
            _log.warning("%s; tried again until it succeeds", error)
        return str(error)
    return ""
