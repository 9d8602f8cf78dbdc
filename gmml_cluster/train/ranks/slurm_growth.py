"""More nodes on SLURM: rank 0 looks for idle ones, and where the queue promises them the job queues anew for all.

A job in SLURM gets no further nodes while it runs. So it is requeued, which is worth it only if it starts at once: if
nodes of its partition are idle and nobody else waits there for them or for those that the job gives back.
"""

import logging
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from gmml_cluster.run.growth import Growth
from gmml_cluster.train.ranks.cluster_env import own_job, scontrol
from gmml_cluster.train.ranks.signals import StopRequest

LOOK_S = 60.0
_ANSWER_S = 10

_log = logging.getLogger(__name__)


@dataclass
class QueueLooks:
    """Rank 0's looks at the queue; each asks the controller two or three times.

    Attributes:
        growth: of this attempt.
        most: nodes that the run may have.
        last_commit: step of this attempt's latest checkpoint.
        stop_request: gets a notice once there are nodes to gain.
    """

    growth: Growth
    most: int
    last_commit: Callable[[], int]
    stop_request: StopRequest

    def look(self) -> None:
        """One look; does nothing once the attempt is asked to stop."""
        if self.stop_request.stop:
            return
        could = min(self.most, self.growth.nodes + nodes_to_gain(own_job()))
        if self.growth.is_due(could, self.last_commit):
            _log.info("%s: this attempt ends at its checkpoint, and the job queues for them", self.growth.proof)
            self.stop_request.grown = self.growth.proof
            self.stop_request.give("notice")


def nodes_to_gain(job: str) -> int:
    """Idle nodes that a job of SLURM would get beside its own if it queued anew now; 0 where nothing promises them."""
    known = scontrol("job", job) if job else {}
    partition = known.get("Partition", "")
    if known.get("Requeue") != "1" or not partition:
        return 0
    waiting = _lines("squeue", "--noheader", "--states=PENDING", f"--partition={partition}", "--format=%A")
    if waiting is None or set(waiting) - {job}:
        return 0
    idle = _lines("sinfo", "--noheader", "--Node", f"--partition={partition}", "--states=IDLE", "--format=%N %t")
    excluded = known.get("ExcNodeList", "(null)")
    out = [] if excluded == "(null)" else _lines("scontrol", "show", "hostnames", excluded)
    if idle is None or out is None:
        return 0
    # `idle*` does not answer, `idle~` is powered down and may take minutes
    return len({line.removesuffix(" idle") for line in idle if line.endswith(" idle")} - set(out))


def _lines(*command: str) -> list[str] | None:
    """What a tool prints; None where it is missing or fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_ANSWER_S)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.splitlines() if done.returncode == 0 else None
