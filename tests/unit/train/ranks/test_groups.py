"""What is fixed before process groups are made, and how their errors reach the signal thread."""

import os
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import ErrorType
from torch.distributed import distributed_c10d

from gmml_cluster.train.ranks import groups
from gmml_cluster.train.ranks.rendezvous import RankInfo


@pytest.fixture
def joined(monkeypatch):
    """What `init_process_group` was called with."""
    called = {}
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **given: called.update(given, backend=backend))
    monkeypatch.setattr(os, "environ", dict(os.environ))
    return called


KV = SimpleNamespace(for_groups=lambda: "store")


def test_nccl_connects_at_the_join_with_our_time_out_and_leaves_errors_to_us(joined):
    groups.join(KV, RankInfo(1, 4, 1, 2), torch.device("cuda", 1))
    assert joined == {
        "backend": "nccl", "store": "store", "rank": 1, "world_size": 4,
        "timeout": groups.GROUP_TIMEOUT, "device_id": torch.device("cuda", 1),
    }  # fmt: skip
    assert os.environ["TORCH_NCCL_ASYNC_ERROR_HANDLING"] == "0"
    assert os.environ["TORCH_NCCL_RETHROW_CUDA_ERRORS"] == "0"


@pytest.mark.parametrize(("ranks", "device"), [(1, "cuda:0"), (2, "cpu")])
def test_a_lone_rank_and_gloo_bind_no_device(joined, ranks, device):
    groups.join(KV, RankInfo(0, ranks, 0, ranks), torch.device(device))
    assert joined["device_id"] is None
    assert joined["timeout"] == groups.GROUP_TIMEOUT


class Group:
    """A process group whose NCCL backend recorded this error; None where it has no such backend."""

    group_name = "7"

    def __init__(self, error):
        self.error = error

    def _get_backend(self, device):
        if self.error is None:
            raise RuntimeError("No backend type associated with device type cuda")
        return SimpleNamespace(get_error=lambda: self.error)


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (None, ""),
        (ErrorType.SUCCESS, ""),
        (ErrorType.TIMEOUT, "NCCL watchdog: TIMEOUT in process group 7"),
        (ErrorType.COMM_ERROR, "NCCL watchdog: COMM_ERROR in process group 7"),
    ],
)
def test_what_the_watchdog_recorded_is_named(monkeypatch, error, problem):
    monkeypatch.setattr(distributed_c10d, "_world", SimpleNamespace(pg_map={Group(error): None}))
    assert groups.group_problem() == problem


def test_gloo_has_no_problem_to_ask_for():
    store = dist.HashStore()
    dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        assert groups.group_problem() == ""
    finally:
        dist.destroy_process_group()


def test_determinism_pins_attention_and_fills_no_memory(monkeypatch):
    monkeypatch.setattr(os, "environ", dict(os.environ))
    before = torch.backends.cuda.mem_efficient_sdp_enabled(), torch.backends.cuda.cudnn_sdp_enabled()
    try:
        groups.be_deterministic()
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        assert not torch.backends.cuda.cudnn_sdp_enabled()
        assert torch.backends.cuda.flash_sdp_enabled()
        assert os.environ["NCCL_NVLS_ENABLE"] == "0"
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True
        torch.backends.cuda.enable_mem_efficient_sdp(before[0])
        torch.backends.cuda.enable_cudnn_sdp(before[1])
