"""When a run that has fewer nodes than it may have takes more: at a checkpoint made since there is room for them.

The attempt ends by a notice, so it loses no step, and the next one takes what is free then. A restart costs half a
minute and more; with a checkpoint in between two of them a cluster whose nodes come and go cannot stop a run.
"""

from collections.abc import Callable
from dataclasses import dataclass

from gmml_cluster.wording import counted

NO_COMMIT = -1


@dataclass
class Growth:
    """Judges each look at the cluster during one attempt.

    Attributes:
        nodes: those of the attempt.
        proof: why it is to end; empty before `is_due` says so.
    """

    nodes: int
    proof: str = ""
    _commit_before: int | None = None

    def is_due(self, could: int, last_commit: Callable[[], int]) -> bool:
        """Whether a checkpoint was made since there is room, so that the attempt may end now.

        Args:
            could: nodes that it could have, of those it may have.
            last_commit: step of its latest checkpoint, `NO_COMMIT` without one; asked only where there is room, for it
                may read the log.
        """
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
