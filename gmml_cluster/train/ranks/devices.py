"""Which device a rank computes on, and whether the ranks of an attempt have devices that fit each other."""

import os
import re
import socket
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.train.ranks.cluster_env import threads
from gmml_cluster.train.ranks.rendezvous import START_S, KeyValueStore, RankInfo
from gmml_cluster.wording import counted

GPUS_VARIABLE = "GMML_GPUS"


@dataclass(frozen=True)
class DeviceInfo:
    """What a rank computes on, as the ranks compare it before they join.

    Attributes:
        kind: `cuda` or `cpu`.
        name: the model of GPU or processor.
        count: GPUs that the rank can see.
        id: distinguishes this GPU from all others of the node; empty for a processor, which ranks share.
        memory_bytes: of the GPU; None for a processor.
    """

    host: str
    kind: str
    name: str
    count: int
    id: str
    memory_bytes: int | None = None


def expected_gpus(environment: Mapping[str, str]) -> int:
    """GPUs that this rank ought to see at least one of: as the launcher says, else CUDA, else SLURM; 0: none.

    CUDA_VISIBLE_DEVICES may list indexes, UUIDs of GPUs or of MIG slices; empty or -1 hides all, even expected ones.
    """
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    listed = [name for name in (visible or "").split(",") if name.strip() not in ("", "-1", "NoDevFiles", "void")]
    if visible is not None and not listed:
        return 0
    return int(environment.get(GPUS_VARIABLE) or len(listed) or environment.get("SLURM_GPUS_ON_NODE") or 0)


def choose_device(rank_info: RankInfo) -> torch.device:
    """The GPU of this rank, or the processor where no GPU is expected.

    A rank that sees one GPU takes it: SLURM's `--gpus-per-task` and `--gpu-bind` show each task its own as number 0.
    One that sees more takes that of its local rank.

    Raises:
        LaunchError: a GPU is expected and torch finds none, or fewer are visible than the node has ranks.
    """
    visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
    expected = expected_gpus(os.environ)
    if not visible and expected:
        raise LaunchError(str(_no_gpu(expected)))
    if not visible:
        torch.set_num_threads(threads(rank_info.local_ranks) or torch.get_num_threads())
        return torch.device("cpu")
    index = 0 if visible == 1 else rank_info.local_rank
    if index >= visible:
        gpus = counted(visible, "GPU")
        problem = f"{rank_info.local_ranks} ranks on this node and {gpus} visible to local rank {index}"
        hint = "set ranks_per_node to the number of GPUs, or give the job more GPUs"
        raise LaunchError(Fault(socket.gethostname(), problem, hint))
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _no_gpu(expected: int) -> Fault:
    """Training on the processor in place of a GPU would take weeks, and beside ranks with GPUs it would hang."""
    where, found = socket.gethostname(), f"{counted(expected, 'GPU')} expected, and torch sees none"
    hide = "or hide the GPUs by CUDA_VISIBLE_DEVICES= to train on the processor"
    if torch.version.cuda is None:
        return Fault(where, f"{found}: torch {torch.__version__} is a build for CPUs", f"install one for CUDA, {hide}")
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
        reason = f"CUDA_VISIBLE_DEVICES is {os.environ.get('CUDA_VISIBLE_DEVICES', 'not set')!r}"
    except Exception as error:
        reason = " ".join(str(error).split())
    return Fault(where, f"{found}: {reason}", f"check nvidia-smi there and exclude the node if it fails, {hide}")


def device_info(device: torch.device) -> DeviceInfo:
    """What this rank reports of its device."""
    host = socket.gethostname()
    if device.type != "cuda":
        return DeviceInfo(host, device.type, processor(), 0, "")
    properties = torch.cuda.get_device_properties(device)
    identity = str(getattr(properties, "uuid", "")) or str(device)
    return DeviceInfo(host, "cuda", properties.name, torch.cuda.device_count(), identity, properties.total_memory)


def gather_devices(kv: KeyValueStore, rank_info: RankInfo, device: torch.device) -> list[DeviceInfo]:
    """All ranks' devices on rank 0, in the order of ranks; the other ranks report theirs and get nothing."""
    mine = device_info(device)
    if rank_info.rank != 0:
        kv.set(f"device/{rank_info.rank}", asdict(mine))
        return []
    others = [kv.wait(f"device/{rank}", timeout_s=START_S) for rank in range(1, rank_info.ranks)]
    return [mine, *(DeviceInfo(**fields) for fields in others)]


def least_memory_bytes(devices: list[DeviceInfo]) -> int | None:
    """Memory of the smallest GPU; None on CPUs."""
    known = (device.memory_bytes for device in devices if device.memory_bytes is not None)
    return min(known, default=None)


def check_devices(devices: list[DeviceInfo]) -> list[str]:
    """Compare devices, in the order of ranks.

    Returns:
        What is unusual but works: other models, other numbers of GPUs.

    Raises:
        LaunchError: some ranks have GPUs and others do not (gloo and NCCL would wait for each other for ever), or two
            ranks have the same GPU (NCCL refuses it with a message that names neither).
    """
    kinds = _by(devices, "kind")
    if len(kinds) > 1:
        without = kinds["cpu"]
        problem = f"no GPU for rank {without[0]} ({len(without)} of {len(devices)} ranks), which other ranks have"
        hint = "install torch for CUDA there, repair the driver, or exclude the node"
        raise LaunchError(Fault(devices[without[0]].host, problem, hint))
    taken: dict[tuple[str, str], int] = {}
    for rank, device in enumerate(devices):
        if device.id and (other := taken.setdefault((device.host, device.id), rank)) != rank:
            sharing = sum(known.host == device.host for known in devices)
            problem = f"{sharing} ranks on this node and {device.count} GPU visible: ranks {other} and {rank} share it"
            hint = "set ranks_per_node to the number of GPUs, or give each task its own GPU"
            raise LaunchError(Fault(device.host, problem, hint))
    return [
        f"devices differ in {field}: "
        + "; ".join(f"{value} on rank {ranks[0]} ({devices[ranks[0]].host})" for value, ranks in values.items())
        for field in ("name", "count")
        if len(values := _by(devices, field)) > 1
    ]


def _by(devices: list[DeviceInfo], field: str) -> dict[Any, list[int]]:
    ranks: dict[Any, list[int]] = defaultdict(list)
    for rank, device in enumerate(devices):
        ranks[getattr(device, field)].append(rank)
    return ranks


def processor() -> str:
    """Model of this node's processor, or its architecture where the kernel names no model."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.exists() else None
    return model[1] if model else os.uname().machine
