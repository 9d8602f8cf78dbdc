"""What is done after a start of a job: started again on the nodes it has, put back into the queue, or nothing.

A pure function of what the log allows and of the nodes that are left; docs/reference/batch-script.md has the table.
Imports neither torch nor pydantic.
"""

from dataclasses import dataclass
from typing import Literal

from gmml_cluster.run.ends.causes import FREE

Action = Literal["here", "requeue", "nothing"]


@dataclass(frozen=True)
class Verdict:
    """What the log allows after a start.

    Attributes:
        again: whether the job starts again.
        cause: why the start ended.
        pause_s: seconds to wait before that.
        excluded: nodes that the run avoids.
        finished: whether the run is at its last step. Only then its job exits with 0, whatever the ranks' code:
            schedulers take 0 for success and start the jobs that depend on it.
    """

    again: bool
    cause: str = "lost"
    pause_s: float = 0.0
    excluded: tuple[str, ...] = ()
    finished: bool = False


@dataclass(frozen=True)
class Allocation:
    """What a job has of its nodes when a start is over.

    Attributes:
        held: whether its scheduler leaves them to it: not where it takes them away, or where it does not answer.
        sound: nodes that answer and whose devices did not fail.
        bad: its other nodes.
        least: fewest that the run can use.
    """

    held: bool
    sound: tuple[str, ...]
    bad: tuple[str, ...]
    least: int


def action(verdict: Verdict, allocation: Allocation) -> Action:
    """Where the job starts again, if it does.

    A scheduler that gave notice wants its nodes back, so the job queues for others. Everything else is over once new
    processes run: on the same nodes if all are sound, without the bad ones if enough are left.
    """
    if not verdict.again:
        return "nothing"
    if verdict.cause in FREE or not allocation.held or len(allocation.sound) < allocation.least:
        return "requeue"
    return "here"
