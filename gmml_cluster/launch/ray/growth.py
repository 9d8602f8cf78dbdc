"""More nodes for a run that has fewer than it may have: looked for while an attempt runs, taken at a checkpoint.

The attempt ends by a notice, so it loses no step, and the next one takes what is free then. A restart costs half a
minute and more; with a checkpoint in between two of them a cluster whose nodes come and go cannot stop a run.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from gmml_cluster.launch.ray.job import Job
from gmml_cluster.launch.ray.room import Free
from gmml_cluster.wording import counted

LOOK_S = 10.0
NO_COMMIT = -1

_log = logging.getLogger(__name__)


@dataclass
class Growth:
    """Looks for room for more nodes than an attempt has.

    Attributes:
        job: which has room for them within its bounds.
        nodes: those of the attempt.
        proof: why it was given notice; empty where it was not.
    """

    job: Job
    nodes: int
    proof: str = ""
    _commit_before: int | None = None

    def is_due(self, free: Free, last_commit: Callable[[], int]) -> bool:
        """Whether a checkpoint was made since there is room, so that the attempt may end now.

        Args:
            free: what would be free if the attempt were not there.
            last_commit: step of its latest checkpoint, `NO_COMMIT` without one; asked only where there is room, for it
                reads the log.
        """
        could = self.job.nodes_in(free)
        if could <= self.nodes:
            self._commit_before = None
            return False
        commit = last_commit()
        if self._commit_before is None:
            self._commit_before = commit
        if commit <= self._commit_before:
            return False
        self.proof = f"there is room for {counted(could, 'node')} instead of {self.nodes}"
        return True


@contextmanager
def looked_for(growth: Growth, look: Callable[[], bool], notify: Callable[[str], None]) -> Iterator[None]:
    """While the context lasts, `look` every ten seconds in a thread, and `notify` with the proof once it is due.

    Args:
        growth: nothing is looked for where the attempt has all nodes that it may have.
        look: asks `growth.is_due`; what fails in it is logged, and tried again.
        notify: ends the attempt.
    """
    over = threading.Event()

    def run() -> None:
        while not over.wait(LOOK_S):
            try:
                if look():
                    _log.info("%s: the attempt ends at its checkpoint, and the run goes on there", growth.proof)
                    notify(growth.proof)
                    return
            except Exception as error:
                _log.warning("looking for more nodes: %s", error)

    if growth.nodes < growth.job.nodes[1]:
        threading.Thread(target=run, name="growth", daemon=True).start()
    try:
        yield
    finally:
        over.set()
