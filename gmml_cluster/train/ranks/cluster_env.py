"""What SLURM and the environment say of a rank's node and job; empty answers where they say nothing."""

import os
import shutil
import socket
import subprocess
from collections.abc import Mapping

from gmml_cluster.run.ends.causes import Cause
from gmml_cluster.run.ends.symptoms import of_kill


def own_address() -> str:
    """An address of this node that the other nodes reach: Ray's or SLURM's where there is one, else the host's name."""
    if "GMML_ADDRESS" in os.environ:
        return os.environ["GMML_ADDRESS"]
    node = os.environ.get("SLURMD_NODENAME")
    shown = scontrol("node", node) if node else {}
    return shown.get("NodeAddr") or socket.gethostname()


def node_name() -> str:
    """What a job can avoid this node by: SLURM's name, or its address in a Ray cluster; empty where there is none."""
    return os.environ.get("SLURMD_NODENAME") or os.environ.get("GMML_ADDRESS", "")


def own_job() -> str:
    """The number of this SLURM job, `ARRAY_TASK` of an array's task; empty where there is none.

    SLURM_JOB_ID of a task may be the number of the whole array, and what is asked of that concerns all its tasks.
    """
    return os.environ.get("GMML_JOB") or os.environ.get("SLURM_JOB_ID", "")


def preemption_under_way() -> bool:
    """Whether this SLURM job is being preempted already: the notice may have come before handlers existed."""
    job = own_job()
    return bool(job) and _is_preempted(scontrol("job", job))


def is_killed_by_preemption() -> bool:
    """Whether SLURM is taking the nodes from this job, by a preemption: KILL comes within KillWait."""
    job = scontrol("job", own_job())
    return job.get("JobState") == "COMPLETING" and _is_preempted(job)


def _is_preempted(job: Mapping[str, str]) -> bool:
    return job.get("PreemptTime", "None") not in ("None", "Unknown")


def killed_before() -> tuple[Cause, str] | None:
    """Why SLURM killed the start of this job before this one, and its word of it; None where it wrote none."""
    cause, proof = of_kill(os.environ.get("GMML_KILLED", "")) or (None, "")
    return None if cause is None else (cause, proof)


def threads(local_ranks: int) -> int | None:
    """Threads of a rank on CPU: as the environment or SLURM says, else one where ranks share a node; None: all."""
    given = os.environ.get("OMP_NUM_THREADS") or os.environ.get("SLURM_CPUS_PER_TASK")
    return int(given) if given else 1 if local_ranks > 1 else None


def leave_s() -> float:
    """How long rank 0 may wait for the others at the end: 10 s, but less than SLURM's KillWait after the first exit."""
    return max(1.0, min(10.0, kill_wait_s() - 2.0))


def kill_wait_s() -> float:
    """Seconds from SLURM's TERM to its KILL.

    The batch script leaves the variable empty where scontrol fails.
    """
    return float(os.environ.get("GMML_KILL_WAIT_S") or "12")


def is_kept_without_its_script(environment: Mapping[str, str]) -> bool:
    """Whether this rank's job would stay in its allocation although the node of its batch script were lost.

    SLURM takes such a node out of a job with `--no-kill`, which the launcher exports, as it does any other.
    """
    return "GMML_NO_KILL" in environment and environment.get("SLURM_NODEID") != "0"


def requeue_own_job() -> None:
    """Ask SLURM to start this job anew."""
    subprocess.run(["scontrol", "requeue", own_job()], check=True, timeout=60)


def may_grow() -> bool:
    """Whether this rank's job runs on SLURM and asked for a range of nodes."""
    return "GMML_NO_KILL" in os.environ


def scontrol(what: str, name: str) -> dict[str, str]:
    """Fields of `scontrol show`; empty where the tool is missing or fails."""
    if shutil.which("scontrol") is None:
        return {}
    try:
        shown = subprocess.run(
            ["scontrol", "-o", "show", what, name], capture_output=True, text=True, check=False, timeout=10
        )
    except subprocess.TimeoutExpired:
        return {}
    return dict(part.split("=", 1) for part in shown.stdout.split() if "=" in part)
