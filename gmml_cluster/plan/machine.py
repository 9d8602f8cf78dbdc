"""What a node offers: cores, GPUs, memory; and what of it a rank gets."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.spec.cluster import ClusterProfile

RANKS_WITHOUT_GPU = 2
_CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_SMI = ("nvidia-smi", "--query-gpu=index,uuid,memory.total,mig.mode.current", "--format=csv,noheader,nounits")
_SMI_SECONDS = 10.0
_NO_GPU = ("", "-1", "NoDevFiles", "void")


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
    """Memory that a rank may use."""

    total_bytes: int
    """How much."""
    source: str
    """What it is a part of, for messages."""


def this_machine() -> Machine:
    """The machine we are on, with the GPUs that a process started here would see."""
    gpus = _visible_gpus(os.environ.get("CUDA_VISIBLE_DEVICES"))
    known = [gpu.memory_bytes for gpu in gpus if gpu.memory_bytes is not None]
    return Machine(
        cores=len(os.sched_getaffinity(0)),
        gpus=len(gpus),
        memory_bytes=usable_memory_bytes(),
        gpu_bytes=min(known) if gpus and len(known) == len(gpus) else None,
    )


def usable_memory_bytes() -> int:
    """The node's memory, or the container's limit where that is less."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in _CGROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or the word `max`
            found.append(int(path.read_text()))
    return min(found)


@dataclass(frozen=True)
class _Gpu:
    """A GPU as the driver lists it.

    Attributes:
        uuid: empty where only its device file is known.
        memory_bytes: None where it is not known, and of MIG slices: the driver's list has that of the whole GPU.
        sliced: whether it is cut into MIG slices.
    """

    index: int
    uuid: str = ""
    memory_bytes: int | None = None
    sliced: bool = False


def _visible_gpus(visible: str | None) -> list[_Gpu]:
    """The GPUs that CUDA shows to one process; of MIG slices it shows one, however many there are.

    Args:
        visible: CUDA_VISIBLE_DEVICES, which names indexes, UUIDs or their beginnings, or MIG slices.
    """
    names = None if visible is None else [name.strip() for name in visible.split(",")]
    if names is not None and names[0] in _NO_GPU:
        return []
    gpus = _gpus()
    seen = gpus if names is None else list(dict.fromkeys(_named(names, gpus)))
    return [_Gpu(0, sliced=True)] if any(gpu.sliced for gpu in seen) else seen


def _named(names: list[str], gpus: list[_Gpu]) -> Iterator[_Gpu]:
    """The GPUs that are named. CUDA ignores what follows the first name that is none of its devices."""
    for place, name in enumerate(names):
        if name.isdecimal():
            found = [gpu for gpu in gpus if gpu.index == int(name)]
        elif name.startswith("MIG-"):
            found = [gpu for gpu in gpus if gpu.sliced]
        else:  # by device files no UUID is known: each name then counts as one of them
            found = [gpu for gpu in gpus if (gpu.uuid.startswith(name) if gpu.uuid else gpu.index == place)]
        if not found or name in _NO_GPU:
            return
        yield found[0]


def _gpus() -> list[_Gpu]:
    """All GPUs of this machine or container by the driver's own tool: torch is not imported for a plan.

    Where the tool is missing or fails, by the driver's device files: a dead driver is then reported by the ranks, which
    expect a GPU, and not passed over by training on the processor. A container may have the files of GPUs 2 and 5
    alone, which CUDA calls 0 and 1. WSL has no such files.
    """
    files = os.listdir("/dev") if Path("/dev").is_dir() else []
    devices = [name for name in files if re.fullmatch(r"nvidia\d+", name)]
    if not devices and "dxg" not in files:
        return []
    return _listed_by_driver() or [_Gpu(index) for index in range(len(devices))]


def _listed_by_driver() -> list[_Gpu]:
    """What nvidia-smi lists; nothing where it is missing or fails."""
    try:
        done = subprocess.run(_SMI, capture_output=True, text=True, check=True, timeout=_SMI_SECONDS)
        rows = [[field.strip() for field in line.split(",")] for line in done.stdout.splitlines()]
        return [
            _Gpu(int(index), uuid, None if mig == "Enabled" else int(mebibytes) * 2**20, mig == "Enabled")
            for index, uuid, mebibytes, mig in rows
        ]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []


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


def memory_of_node(profile: ClusterProfile, machine: Machine | None) -> int | None:
    """Host memory of a node; None where it is not known: a SLURM profile without `memory_per_node`."""
    return machine.memory_bytes if machine is not None else profile.slurm.memory_per_node


def memory_for_rank(profile: ClusterProfile, machine: Machine | None, ranks_of_node: int) -> RankMemory | None:
    """Memory that each rank of a node may use: its GPU's where there are GPUs, else its share of the node's.

    None where it is not known: a SLURM profile without `gpu_memory` or `memory_per_node`.
    """
    gpus = gpus_of_node(profile, machine)
    if gpus:
        total = machine.gpu_bytes if machine is not None else profile.slurm.gpu_memory
        ranks, source = -(-ranks_of_node // gpus), "a GPU"
    else:
        total = memory_of_node(profile, machine)
        ranks, source = ranks_of_node, "this machine" if profile.launcher == "local" else "a node"
    if total is None:
        return None
    return RankMemory(total // ranks, f"{source} of {total / 2**30:.1f} GiB" + (f" for {ranks}" if ranks > 1 else ""))
