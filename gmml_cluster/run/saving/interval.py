"""How often to save where a job says `auto`: the optimum between the cost of saves and the steps that are lost."""

import math

from gmml_cluster.run.ends.causes import DELIBERATE
from gmml_cluster.run.history import History

FIRST_S = 600.0
LEAST_S, MOST_S = 60.0, 3600.0
PRIOR_S = 24 * 3600.0


def save_interval_s(cost_s: float | None, between_s: float) -> float:
    """Seconds from one save to the next: sqrt(2 cost between), at least 1 min, at most 1 h.

    Young's optimum to first order, for a cost well below `between_s`. Source: J. W. Young, A first order approximation
    to the optimum checkpoint interval, Communications of the ACM 17(9), 1974; J. T. Daly (2006) has the higher orders.

    Args:
        cost_s: seconds that a save takes, an upper bound of what it costs the training; None before one was measured:
            then 10 min.
        between_s: mean seconds between interruptions.
    """
    if cost_s is None:
        return FIRST_S
    return min(max(math.sqrt(2 * cost_s * between_s), LEAST_S), MOST_S)


def between_interruptions_s(history: History, now: float) -> float:
    """Mean seconds of running between interruptions that no person asked for, by the attempts in the log.

    (24 h + time run) / (1 + interruptions): 24 h before anything is known.

    Args:
        now: seconds since 1970; an attempt without an `end` is counted up to it.
    """
    spans = [(now if a.end_time is None else a.end_time) - a.time for a in history.attempts]
    interrupted = sum(a.cause is not None and a.cause not in DELIBERATE for a in history.attempts)
    return (PRIOR_S + sum(max(span, 0.0) for span in spans)) / (1 + interrupted)
