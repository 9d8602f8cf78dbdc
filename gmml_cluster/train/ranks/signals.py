"""The thread that hears what the loop cannot: signals, the launcher's pipe, failing peers, the log.

Python runs signal handlers between bytecodes of the main thread, and a collective is one bytecode. So the handlers are
empty and the kernel's wake-up descriptor tells this thread at once. Imports neither torch nor pydantic: it is installed
before them, while the launcher still blocks the signals.
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

STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR2)
TICK_S = 0.5
ORPHAN_S = 600.0

_log = logging.getLogger(__name__)


@dataclass
class StopRequest:
    """What the loop of this rank is asked to do; the guardian writes, the loop reads."""

    stop: Literal["", "notice", "cancelled"] = ""

    def give(self, stop: Literal["notice", "cancelled"]) -> None:
        """Ask for a stop; a cancel outranks a notice."""
        if self.stop != "cancelled":
            self.stop = stop


@dataclass
class Guardian:
    """Watches over one rank, from before torch is imported until the process leaves.

    Attributes:
        watches: called at every tick (0.5 s) in the guardian's thread, so they must be quick: while one waits, no
            signal is heard. One that fails is told of and called again at the next tick.
    """

    orders: StopRequest = field(default_factory=StopRequest)
    watches: list[Callable[[], None]] = field(default_factory=list)

    def install(self, pipe: int | None = None) -> None:
        """Hear signals from now on, also those held back since the launcher started this process.

        Args:
            pipe: descriptor whose closing means that the supervisor is gone; counts as a notice.
        """
        hear, self._speak = socket.socketpair()
        self._speak.setblocking(False)
        for number in (*STOP_SIGNALS, signal.SIGCONT):
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._speak.fileno(), warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*STOP_SIGNALS, signal.SIGCONT))
        self._sources: list[Any] = [hear] if pipe is None else [hear, pipe]
        threading.Thread(target=self._run, name="guardian", daemon=True).start()

    def _run(self) -> None:
        told: dict[Callable[[], None], str] = {}
        while True:
            for source in select.select(self._sources, [], [], TICK_S)[0]:
                self._hear(source)
            for watch in list(self.watches):
                told[watch] = _tried(watch, told.get(watch, ""))

    def _hear(self, source: Any) -> None:
        if isinstance(source, socket.socket):
            if any(number in STOP_SIGNALS for number in source.recv(256)):
                _log.info("a signal gives notice: the state is saved and this rank leaves")
                self.orders.give("notice")
        elif not os.read(source, 1):
            _log.info("the supervisor is gone: the state is saved and this rank leaves")
            self._sources.remove(source)
            self.orders.give("notice")
            _leave_at_the_latest(ORPHAN_S)


def _leave_at_the_latest(seconds: float) -> None:
    """A rank that hangs would hold the run's lock, so that nobody could resume it, and no supervisor kills it."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()


def repeat(seconds: float, action: Callable[[], None], first_s: float | None = None) -> None:
    """Do something every so often, in a thread of its own, where waiting for a store deafens nobody.

    Args:
        seconds: between two times.
        action: what is done; a failure is told and it is done again.
        first_s: before the first time; the pause doubles from there on until it is `seconds`, which is the default.
    """

    def run() -> None:
        pause, told = first_s or seconds, ""
        while True:
            time.sleep(pause)
            told = _tried(action, told)
            pause = min(2 * pause, seconds)

    threading.Thread(target=run, name="repeating", daemon=True).start()


def _tried(action: Callable[[], None], told: str) -> str:
    """How the action failed, empty where it did not; named in the log unless that was told the last time."""
    try:
        action()
    except Exception as error:
        if str(error) != told:
            _log.warning("%s; tried again until it succeeds", error)
        return str(error)
    return ""
