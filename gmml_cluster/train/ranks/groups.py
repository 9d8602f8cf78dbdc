"""torch's process groups, and what of torch, CUDA and NCCL is fixed before they are made."""

import os
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from gmml_cluster.models.vit import pin_attention
from gmml_cluster.train.ranks.rendezvous import KeyValueStore, RankInfo

GROUP_TIMEOUT = timedelta(days=14)
"""Of every process group (`engines/zero.py` gives it to DeepSpeed's). Never meant to fire: a dead peer is found by its
connection, and whatever else stands still by the watchdog, which leaves out the days for which a scheduler may suspend
the job. Gloo and NCCL do not, and milliseconds above 24 days do not fit the integer that poll(2) takes."""


def join(kv: KeyValueStore, rank_info: RankInfo, device: torch.device) -> None:
    """Make the default process group. A collective."""
    if device.type == "cuda":
        keep_errors_from_aborting()
    # With its device given, NCCL connects here and now, so that a broken link fails at the join and not in the first
    # step. With one rank there is nothing to connect, and DeepSpeed's later groups would be split from a
    # communicator that does not exist.
    bound = device if device.type == "cuda" and rank_info.ranks > 1 else None
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=kv.for_groups(),
        rank=rank_info.rank,
        world_size=rank_info.ranks,
        timeout=GROUP_TIMEOUT,
        device_id=bound,
    )


def keep_errors_from_aborting() -> None:
    """Keep torch's own error handling from ending the process before the error is in the log.

    By default NCCL's watchdog thread throws, which is SIGABRT: no message of ours, no `end`, and for the launcher a
    crash. Aborting the communicators instead (value 2) would let a step finish with sums that were never summed,
    which might be saved. With 0 it only records the error; the signal thread asks for it (`group_problem`).
    """
    os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")
    os.environ.setdefault("TORCH_NCCL_RETHROW_CUDA_ERRORS", "0")


def group_problem() -> str:
    """What NCCL's watchdog has recorded for any process group; empty where nothing, and for gloo, which raises."""
    from torch.distributed import distributed_c10d

    for group in list(distributed_c10d._world.pg_map):
        error = str(_error_of(group)).rpartition(".")[2]
        if error not in ("None", "SUCCESS"):
            return f"NCCL watchdog: {error} in process group {group.group_name}"
    return ""


def _error_of(group: Any) -> Any:
    try:
        return group._get_backend(torch.device("cuda")).get_error()
    except (RuntimeError, AttributeError):  # a group of gloo alone, or a torch before 2.7
        return None


def least_gpu_bytes(device: torch.device) -> int | None:
    """Memory of the smallest GPU of the ranks: all ranks must cut their share of a step alike. None on CPUs."""
    if device.type != "cuda":
        return None
    total = torch.tensor([torch.cuda.mem_get_info(device)[1]], device=device)
    if dist.is_initialized():
        dist.all_reduce(total, op=dist.ReduceOp.MIN)
    return int(total.item())


def be_deterministic() -> None:
    """Fix what else may differ between two runs at one topology; see docs/reference/exactness.md."""
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    os.environ["NCCL_NVLS_ENABLE"] = "0"  # sums in the switch, in the order of arrival
    torch.use_deterministic_algorithms(True)
    # else every torch.empty is filled with NaN to expose reads of it: a kernel for each allocation, and no bit changes
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    pin_attention(True)
