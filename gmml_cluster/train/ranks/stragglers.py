"""Ranks that keep the others waiting, found in what the summed vector of each step says of every rank."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

STEPS = 100
"""Slow steps until a rank is named; as they come, one that is not slow takes back `_FORGIVEN` of them."""
_FORGIVEN = 4
_SLOWER, _SHARE = 1.25, 0.05

Timed = tuple[torch.cuda.Event, torch.cuda.Event] | None
"""Events of the device around what was timed; None on CPU."""


@dataclass
class ForwardClock:
    """Times the first forward pass of each step, without waiting for the device.

    Attributes:
        seconds: of the latest pass of which that is known: on CPU the last, on GPUs the last whose step was read.
    """

    device: torch.device
    seconds: float = 0.0

    @contextmanager
    def timed(self) -> Iterator[Timed]:
        """Time what is enqueued inside."""
        if self.device.type != "cuda":
            began = time.monotonic()
            yield None
            self.seconds = time.monotonic() - began
            return
        began_at = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        ended_at = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        began_at.record()
        yield began_at, ended_at
        ended_at.record()

    def read(self, events: Timed) -> None:
        """Take the time between two events; a later one of the stream has been waited for already."""
        if events is not None:
            self.seconds = events[0].elapsed_time(events[1]) / 1000


@dataclass
class Stragglers:
    """Counts slow steps of each rank.

    The time of a whole step cannot tell them apart: every rank waits for the slowest in it. What differs is what a rank
    does before it first waits for others, its own time.
    """

    slow: list[int] = field(default_factory=list)
    """Ranks that are slow now."""
    _counts: list[int] = field(default_factory=list)

    def add(self, own_s: Sequence[float], step_s: float) -> list[int]:
        """Count one step; the ranks that are slow now.

        A rank is slow in a step where its own time is a quarter above the median of all and the difference is a
        twentieth of the step: less is not worth a look.

        Args:
            own_s: seconds of each rank.
            step_s: seconds of the step.
        """
        counts = self._counts or [0] * len(own_s)
        usual_s = sorted(own_s)[(len(own_s) - 1) // 2]  # of two ranks the faster one
        least_s = max(_SLOWER * usual_s, usual_s + _SHARE * step_s)
        self._counts = [
            min(STEPS, count + 1) if seconds > least_s else max(0, count - _FORGIVEN)
            for count, seconds in zip(counts, own_s, strict=True)
        ]
        self.slow = [
            rank for rank, count in enumerate(self._counts) if count >= STEPS or (count > 0 and rank in self.slow)
        ]
        return self.slow
