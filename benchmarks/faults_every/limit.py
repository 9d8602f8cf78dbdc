"""What arithmetic allows a run that is hit every T seconds."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """A run under faults.

    Attributes:
        between_s: seconds from one fault to the next, by the clock (T).
        save_s: seconds from the copy of a state to its commit (S).
        interval_s: seconds from one save to the next (I).
        stall_s: seconds that the training stands still for a save (C).
        restart_s: seconds from a fault to the first new step (R).
    """

    between_s: float
    save_s: float
    interval_s: float
    stall_s: float
    restart_s: float

    @property
    def replay_s(self) -> float:
        """Mean seconds of training that a fault costs: the age of the state that the latest commit holds.

        At a moment that knows nothing of the saves it is between S and S + I, all alike: S + I / 2.
        """
        return self.save_s + self.interval_s / 2

    @property
    def share(self) -> float:
        """Share of the time that makes steps which count: (1 - (R + replay) / T) I / (I + C)."""
        working = max(0.0, 1 - (self.restart_s + self.replay_s) / self.between_s)
        return working * self.interval_s / (self.interval_s + self.stall_s)

    def seconds(self, trained_s: float) -> float:
        """How long so much training takes; infinite where nothing is left of the time between two faults."""
        return trained_s / self.share if self.share else math.inf


def waiting_for_saves(between_s: float, save_s: float, restart_s: float) -> Case:
    """The best case where training stands still for the whole of each save: I = sqrt(2 S T) (Young, 1974).

    The state is as old as the interval at most, as nothing is trained while it is written.
    """
    interval_s = math.sqrt(2 * save_s * between_s)
    return Case(between_s, 0.0, interval_s, save_s, restart_s)
