"""Rank 0 of a preempted SLURM job asks for its requeue while it still saves, shortly before it is killed.

The batch script asks once the ranks have left. Where a save takes longer than the notice it is killed with them, and a
job that was cancelled by a preemption (PreemptMode=CANCEL) SLURM starts by itself never again.
"""

import logging
import os
import subprocess
import threading

from gmml_cluster.train.ranks.cluster_env import is_killed_by_preemption, kill_wait_s, requeue_own_job

SHARE = 0.6
"""Of KillWait that passes before: most saves are over by then, and a slow controller has the rest to answer."""

_log = logging.getLogger(__name__)


class BeforeKill:
    """Follows the notices of this process up."""

    def __init__(self) -> None:
        self._timer: threading.Timer | None = None

    def notice(self) -> None:
        """Called at each signal: at the end of a GraceTime TERM comes again, and KILL follows KillWait after that."""
        if "GMML_JOB" not in os.environ:  # no batch script of ours has started this rank
            return
        if self._timer is not None:
            self._timer.cancel()  # a preemption sends several signals at once
        self._timer = threading.Timer(SHARE * kill_wait_s(), requeue_if_preempted)
        self._timer.daemon = True
        self._timer.start()


def requeue_if_preempted() -> None:
    """Ask for the requeue where SLURM is taking the nodes away and has not requeued the job itself.

    A job that a person cancels, or that is over its time limit, is left to its script.
    """
    if not is_killed_by_preemption():
        return
    try:
        requeue_own_job()
    except (OSError, subprocess.SubprocessError) as error:
        _log.info("no requeue before the kill: %s", error)
    else:
        _log.info("the save takes longer than the notice: this job is requeued before it is killed")
