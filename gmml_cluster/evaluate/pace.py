"""How long a batch of an evaluation may take before the evaluation is given up."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.running_time import running_time

FIRST_S = 300.0
"""For the first batch, of which no other says what is usual: within it requests to a store are retried."""
SLACK_S = 60.0
FACTOR = 20


@dataclass
class Pace:
    """Times the batches of one evaluation on one rank.

    All ranks stand still while one of them waits for its store. A batch that takes 20 times the median, and a minute
    more, is that: then it is better to train on.
    """

    clock: Callable[[], float] = running_time
    _taken: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._began = self.clock()

    def next(self) -> None:
        """Another batch is done.

        Raises:
            StorageError: it took too long.
        """
        seconds, self._began = self.clock() - self._began, self.clock()
        usual = statistics.median(self._taken) if self._taken else None
        self._taken.append(seconds)
        if seconds > (FIRST_S if usual is None else SLACK_S + FACTOR * usual):
            known = "" if usual is None else f", where {usual:.1f} s are usual"
            problem = f"a batch of images took {seconds:.0f} s{known}, and all ranks wait for it"
            raise StorageError(Fault("evaluate", problem, "see whether the store of its corpora answers"))
