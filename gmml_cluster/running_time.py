"""A clock that stands still while this process is stopped.

A scheduler may stop all processes of a run for hours and then let them go on, as SLURM does with PreemptMode=SUSPEND
and in turns with gang scheduling. The kernel's clocks run on meanwhile: by them every limit would be over at the first
look after it, of requests to a store as of waits for other ranks, and the run would end for want of nothing.
"""

import threading
import time
from collections.abc import Callable

TICK_S = 1.0
MOST_S = 10.0
"""What one tick counts at most. More than a busy machine delays a thread, less than any limit."""


class RunningTime:
    """Seconds that this process ran or could have run; `running_time` is the one there is.

    Until `start` it is the kernel's clock, for processes that nobody suspends for long and that need no thread for it.

    Args:
        clock: what runs on while the process is stopped.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last: tuple[float, float] | None = None

    def __call__(self) -> float:
        """Seconds since some moment. Of use in differences, in any thread."""
        return self._at(self._clock())

    @property
    def stopped_s(self) -> float:
        """Seconds since `start` that do not count: the process was stopped, but for the first MOST_S of each time."""
        now = self._clock()
        return max(0.0, round(now - self._at(now), 3))  # sums of floats differ in the last digits

    def start(self) -> None:
        """Notice from now on that the process was stopped, by a thread that does nothing but look at the clock."""
        self.tick()
        threading.Thread(target=self._run, name="running time", daemon=True).start()

    def tick(self) -> None:
        """Look at the clock, which the thread does every second."""
        now = self._clock()
        self._last = (self._at(now), now)

    def _run(self) -> None:
        while True:
            time.sleep(TICK_S)
            self.tick()

    def _at(self, now: float) -> float:
        if self._last is None:
            return now
        counted, at = self._last
        return counted + min(now - at, MOST_S)


running_time = RunningTime()
