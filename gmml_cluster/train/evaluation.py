"""What the loop and the attempt need of an evaluation between two steps: `evaluate/in_training.py` is the one there is.

Training may not import it, as what scores an encoder stands above what trains one. `worker.py` puts the two together.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from gmml_cluster.methods.protocol import Method
from gmml_cluster.run.root import RunRoot
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.stepper import LoopResult


@dataclass(frozen=True)
class Scored:
    """What of an attempt is scored, and how often.

    Attributes:
        every_steps: steps between two evaluations.
        steps: updates of the whole run.
    """

    run: RunRoot
    job: JobSpec
    method: Method
    engine: Engine
    rank_info: RankInfo
    attempt: int
    every_steps: int
    steps: int
    stop_request: StopRequest

    def due(self, step: int) -> bool:
        """Whether the weights behind this step are scored; a step that is due is saved too."""
        return (step + 1) % self.every_steps == 0 or self.is_last(step)

    def is_last(self, step: int) -> bool:
        """Whether the run is complete with this step."""
        return step == self.steps - 1


class Evaluation(Protocol):
    """Scores the weights between two steps, on all ranks together."""

    def due(self, step: int) -> bool: ...

    def run(self, step: int, committed: Callable[[], None] = lambda: None) -> LoopResult:
        """Score the weights behind this step, unless that is done already. A collective.

        A failure of the evaluation itself is logged and stops nothing.

        Args:
            step: the last step made.
            committed: returns once the step's checkpoint is in the log, and raises where it cannot be saved.

        Returns:
            Why the attempt is to stop before it was scored; empty otherwise, and for the last step always.
        """


Evaluate = Callable[[Scored], Evaluation]
