"""Notices that this rank makes no progress, in whatever it does, and says what its threads are doing.

The main thread reports progress by `beat`: at every step, and at every batch of an evaluation or of a pass over the
corpora. The signal thread asks for `overdue` at every tick. A rank whose interpreter is blocked by a C call that holds
its lock cannot ask; a timer of the interpreter's own, which needs no lock, prints the stacks and ends it.

Time in which a scheduler suspends the process does not count (running_time.py). The timer knows the kernel's clock
alone, so `pause` and `go_on` keep it from ending the process then.
"""

import faulthandler
import statistics
import sys
import threading
import traceback
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from gmml_cluster.running_time import running_time
from gmml_cluster.store.requests import DEADLINE_S

FIRST_S = 1800.0
"""For the start, and for the first of whatever repeats: kernels may be compiled in it."""
LONGEST_S = 3000.0
"""No phase has longer."""
_SLACK_S, _MEDIANS = 60.0, 20
_BLOCKED_S, _REARMED_S = 120.0, 10.0
_FRAMES = 12


class Hang(Exception):
    """A rank made no progress for longer than its phase allows."""


@dataclass
class Watchdog:
    """The progress of this process; `watchdog` is the one there is.

    Attributes:
        beats: how often it was reported.
    """

    clock: Callable[[], float] = running_time
    beats: int = 0
    _guards: bool = False
    _paused: bool = False
    _armed_at: float = float("-inf")
    _seconds: dict[str, deque[float]] = field(default_factory=lambda: defaultdict(lambda: deque(maxlen=32)))

    def __post_init__(self) -> None:
        self._now = ("the start", self.clock(), FIRST_S)

    def guard(self) -> None:
        """End this process where its interpreter is blocked, from the next beat on."""
        self._guards = True

    def beat(self, phase: str, limit_s: float | None = None) -> None:
        """Report progress.

        Args:
            phase: what is done from now on, in the words of the error that may follow.
            limit_s: how long it may take until the next call; by default as long as a store may take to answer, and a
                minute or 20 times the median of the last 32 intervals of this phase.
        """
        now = self.clock()
        self.beats += 1
        before, since, _ = self._now
        if before == phase:  # from another phase on it would be the time of that one
            self._seconds[phase].append(now - since)
        self._now = (phase, now, self._limit_s(phase) if limit_s is None else limit_s)
        # to set the timer ends its thread and starts another, so it is not done at every step of some milliseconds
        if self._guards and not self._paused and now - self._armed_at > _REARMED_S:
            self._arm()

    def pause(self) -> None:
        """This process is about to be stopped: the timer must not find its time over when it goes on."""
        if self._guards:
            self._paused = True
            faulthandler.cancel_dump_traceback_later()

    def go_on(self) -> None:
        """This process goes on after a `pause`."""
        if self._paused:
            self._paused = False
            self._arm()

    @property
    def phase(self) -> str:
        """What is done now."""
        return self._now[0]

    def overdue(self) -> str:
        """What has taken too long, and where the main thread is; empty where nothing has."""
        phase, since, limit_s = self._now
        passed = self.clock() - since
        if passed < limit_s:
            return ""
        frame = sys._current_frames().get(threading.main_thread().ident or 0)
        call = traceback.extract_stack(frame)[-1]
        return f"no progress for {passed:.0f} s in {phase}; in {call.name} at {call.filename}:{call.lineno}"

    def _arm(self) -> None:
        self._armed_at = self.clock()
        # behind the limit at which the signal thread would speak: it logs an `end` with the cause, this can only print
        faulthandler.dump_traceback_later(self._now[2] + _BLOCKED_S, exit=True, file=sys.stderr)

    def _limit_s(self, phase: str) -> float:
        known = self._seconds[phase]
        if not known:
            return FIRST_S
        return min(LONGEST_S, DEADLINE_S + max(_SLACK_S, _MEDIANS * statistics.median(known)))


def stacks() -> str:
    """The innermost calls of each thread of this process."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    return "\n".join(
        f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame)[-_FRAMES:]).rstrip()}"
        for ident, frame in sys._current_frames().items()
    )


watchdog = Watchdog()
