"""What a node offers: cores, GPUs, memory; and what of it a rank gets."""

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.spec.cluster import ClusterProfile

RANKS_WITHOUT_GPU = 2
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_SMI = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
_SMI_SECONDS = 10.0


@dataclass(frozen=True)
class Machine:
    """What this process may use of a node; None where it is not known.

    Attributes:
        memory_bytes: memory of the node, or of the container that we are in.
        gpu_bytes: memory of its smallest GPU.
    """

    cores: int
    gpus: int
    memory_bytes: int | None = None
    gpu_bytes: int | None = None


@dataclass(frozen=True)
class RankMemory:
    """Memory that a rank may use.

    Attributes:
        total_bytes: how much.
        source: what it is a part of, for messages.
    """

    total_bytes: int
    source: str


def this_machine() -> Machine:
    """The machine we are on; GPUs are those of NVIDIA's driver, or fewer where CUDA_VISIBLE_DEVICES says so."""
    devices = [name for name in os.listdir("/dev") if re.fullmatch(r"nvidia\d+", name)] if Path("/dev").is_dir() else []
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    named = None if visible is None else [name for name in visible.split(",") if name not in ("", "-1")]
    gpus = len(devices) if named is None else min(len(named), len(devices))
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        gpus=gpus,
        memory_bytes=_memory_bytes(),
        gpu_bytes=_gpu_bytes() if gpus else None,
    )


def _memory_bytes() -> int:
    """Physical memory, or less where a container is limited."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = _CGROUP_LIMIT.read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdecimal() else physical


def _gpu_bytes() -> int | None:
    """Memory of the smallest GPU as the driver's own tool reports it: torch is not imported for a plan."""
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, check=False, timeout=_SMI_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    mebibytes = [int(line) for line in done.stdout.split() if line.isdecimal()]
    return min(mebibytes) * 2**20 if done.returncode == 0 and mebibytes else None


def gpus_of_node(profile: ClusterProfile, machine: Machine | None) -> int:
    """GPUs of a node: those of the machine where it is known, else those that a SLURM profile asks for."""
    return machine.gpus if machine is not None else profile.slurm.gpus_per_node


def ranks_per_node(profile: ClusterProfile, machine: Machine | None) -> int:
    """Ranks of a node: as the profile says, else one for each GPU, else min(2, cores).

    Args:
        profile: the cluster.
        machine: a node, where it is known.
    """
    if profile.ranks_per_node != "auto":
        return profile.ranks_per_node
    cores = machine.cores if machine is not None else RANKS_WITHOUT_GPU
    return gpus_of_node(profile, machine) or min(RANKS_WITHOUT_GPU, cores)


def memory_for_rank(profile: ClusterProfile, machine: Machine | None, ranks_of_node: int) -> RankMemory | None:
    """Memory that each rank of a node may use: its GPU's where there are GPUs, else its share of the node's.

    None where it is not known: a SLURM profile without `gpu_memory` or `memory_per_node`.
    """
    gpus = gpus_of_node(profile, machine)
    if gpus:
        total = machine.gpu_bytes if machine is not None else profile.slurm.gpu_memory
        ranks, source = -(-ranks_of_node // gpus), "a GPU"
    else:
        total = machine.memory_bytes if machine is not None else profile.slurm.memory_per_node
        ranks, source = ranks_of_node, "this machine" if profile.launcher == "local" else "a node"
    if total is None:
        return None
    return RankMemory(total // ranks, f"{source} of {total / 2**30:.1f} GiB" + (f" for {ranks}" if ranks > 1 else ""))
