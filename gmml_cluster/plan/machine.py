"""What of a machine decides how many ranks a node gets."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.spec.cluster import ClusterProfile

RANKS_WITHOUT_GPU = 2


@dataclass(frozen=True)
class Machine:
    """Cores and GPUs that this process may use."""

    cores: int
    gpus: int


def this_machine() -> Machine:
    """The machine we are on; GPUs are those of NVIDIA's driver, or fewer where CUDA_VISIBLE_DEVICES says so."""
    devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)] if Path("/dev").is_dir() else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else [name for name in visible.split(",") if name not in ("", "-1")]
    gpus = len(devices) if named is None else min(len(named), len(devices))
    return Machine(cores=len(os.sched_getaffinity(0)), gpus=gpus)


def ranks_per_node(profile: ClusterProfile, machine: Machine | None) -> int:
    """Ranks of a node: as the profile says, else one for each GPU, else min(2, cores).

    Args:
        profile: the cluster.
        machine: what a node is where that is known; a SLURM profile names its GPUs itself.
    """
    if profile.ranks_per_node != "auto":
        return profile.ranks_per_node
    gpus = machine.gpus if machine is not None else profile.slurm.gpus_per_node
    cores = machine.cores if machine is not None else RANKS_WITHOUT_GPU
    return gpus or min(RANKS_WITHOUT_GPU, cores)
