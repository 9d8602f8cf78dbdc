"""How well the world behaves: delays and faults of requests, drawn for each history."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from tests.simulation.world import here

T = TypeVar("T")
Fault = Literal["", "refused", "unsent", "lost", "late"]


@dataclass
class Weather:
    """What requests meet.

    Attributes:
        faulty: chance of a fault in a request.
        slow: chance that a request or its reply takes seconds or minutes instead of milliseconds.
        outages: times from and to which the store answers nobody.
        late: whether a request may act after its sender gave it up, as one that waited in a proxy does.
    """

    faulty: float = 0.0
    slow: float = 0.0
    outages: tuple[tuple[float, float], ...] = ()
    late: bool = False

    def clear_up(self) -> None:
        """From now on nothing fails and nothing is slow."""
        self.faulty, self.slow, self.outages = 0.0, 0.0, ()

    def travel_s(self) -> float:
        """Seconds that a request, or a reply, is under way: some milliseconds, or up to two minutes."""
        random = here().random
        if self.slow and random.random() < self.slow:
            return math.exp(random.uniform(0.0, math.log(120.0)))
        return random.uniform(0.001, 0.02)

    def fault(self) -> Fault:
        """What befalls the next request."""
        world = here()
        if any(begin <= world.now < end for begin, end in self.outages):
            return "unsent"
        if not self.faulty or world.random.random() >= self.faulty:
            return ""
        return world.random.choice(("refused", "unsent", "lost", "lost", "late" if self.late else "lost"))


@dataclass
class Exchange:
    """What carries requests to a store.

    Attributes:
        weather: that they meet.
        refused: makes the error of a request that was answered and did not act.
        unanswered: makes the error of one without an answer.
        patience_s: how long a client waits for an answer.
    """

    weather: Weather
    refused: Callable[[str], BaseException]
    unanswered: Callable[[], BaseException]
    patience_s: float

    def send(self, what: str, name: str, act: Callable[[], T], *, repeats: Callable[[], Any] | None = None) -> T:
        """Let a request act once, or not, and let its sender learn of it, or not.

        Args:
            repeats: a request that acts after its sender gave it up; None where that cannot be.
        """
        world = here()
        fault = self.weather.fault()
        world.sleep(self.weather.travel_s())
        if fault == "refused":
            error = self.refused(what)
            world.note(_who(), f"{what} {name}", f"refused ({error})")
            raise error
        if fault in ("unsent", "late"):
            if fault == "late" and repeats is not None:
                self._act_late(what, name, repeats)
            world.note(_who(), f"{what} {name}", "no answer, and it did not act")
            world.sleep(world.random.uniform(0.0, self.patience_s))
            raise self.unanswered()
        try:
            result = act()
        except Exception as error:
            world.note(_who(), f"{what} {name}", f"{type(error).__name__}")
            if fault == "lost":
                world.sleep(self.patience_s)
                raise self.unanswered() from None
            world.sleep(self.weather.travel_s())
            raise
        if world.is_listed():
            world.note(_who(), f"{what} {name}", f"done{', and the reply is lost' if fault == 'lost' else ''}")
        if fault == "lost":
            world.sleep(world.random.uniform(0.0, self.patience_s))
            raise self.unanswered()
        world.sleep(self.weather.travel_s())
        return result

    def _act_late(self, what: str, name: str, repeats: Callable[[], Any]) -> None:
        world, who = here(), _who()

        def arrive() -> None:
            try:
                repeats()
                outcome = "acts late"
            except Exception as error:
                outcome = f"comes late: {type(error).__name__}"
            world.note("network", f"{what} {name} of {who}", outcome)

        world.start("network", arrive, after_s=world.random.uniform(0.0, 90.0))


def _who() -> str:
    world = here()
    thread = world.thread
    return f"{thread.process.name}/{thread.name}" if thread is not None else "?"
