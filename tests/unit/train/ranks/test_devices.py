"""A rank has the GPU that it ought to have, or fails by name; ranks with different devices never join."""

import socket
from types import SimpleNamespace

import pytest
import torch

from gmml_cluster.errors import LaunchError
from gmml_cluster.train.ranks import devices
from gmml_cluster.train.ranks.agreement import machine_fields
from gmml_cluster.train.ranks.devices import (
    DeviceInfo,
    check_devices,
    choose_device,
    expected_gpus,
    gather_devices,
    least_memory_bytes,
)
from gmml_cluster.train.ranks.rendezvous import RankInfo

HOST = socket.gethostname()


@pytest.fixture
def gpus(monkeypatch):
    """Lets torch see so many GPUs, of a build for CUDA; returns the list of those that were chosen."""
    chosen = []

    def show(count, cuda="13.0"):
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
        return chosen

    for name in ("GMML_GPUS", "CUDA_VISIBLE_DEVICES", "SLURM_GPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)
    return show


def gpu(rank, *, host="n0", name="H100", count=4, id=None):
    return DeviceInfo(host, "cuda", name, count, id or f"GPU-{host}-{rank}")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        ({"GMML_GPUS": "8", "CUDA_VISIBLE_DEVICES": "0,1"}, 8),
        ({"GMML_GPUS": "8", "CUDA_VISIBLE_DEVICES": ""}, 0),
        ({"GMML_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"}, 1),
        ({"CUDA_VISIBLE_DEVICES": "MIG-61e6ad7d-0a80-5b0d-9b7b-4d9e3f0c6a11,MIG-b2"}, 2),
        ({"CUDA_VISIBLE_DEVICES": "", "SLURM_GPUS_ON_NODE": "4"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "-1"}, 0),
        ({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 0),
        ({"SLURM_GPUS_ON_NODE": "4"}, 4),
    ],
)
def test_what_is_expected_comes_from_the_launcher_then_cuda_then_slurm(environment, expected):
    assert expected_gpus(environment) == expected


@pytest.mark.parametrize(("visible", "local_rank", "index"), [(4, 3, 3), (1, 0, 0), (1, 3, 0), (8, 2, 2)])
def test_the_device_is_the_one_visible_or_that_of_the_local_rank(gpus, visible, local_rank, index):
    chosen = gpus(visible)
    assert choose_device(RankInfo(local_rank, 4, local_rank, 4)) == torch.device("cuda", index)
    assert chosen == [index]


def test_more_ranks_than_gpus_is_an_error_that_names_both_numbers(gpus):
    gpus(2)
    with pytest.raises(LaunchError, match=f"^{HOST}: 4 ranks on this node and 2 GPUs visible to local rank 3; set ra"):
        choose_device(RankInfo(3, 4, 3, 4))


def test_a_build_of_torch_for_cpus_where_gpus_are_expected_is_refused(gpus, monkeypatch):
    gpus(0, cuda=None)
    monkeypatch.setenv("GMML_GPUS", "4")
    with pytest.raises(LaunchError, match=rf"^{HOST}: 4 GPUs expected, and torch sees none: torch .* is a build for"):
        choose_device(RankInfo(0, 1, 0, 1))


def test_a_dead_driver_is_quoted_with_the_node_and_what_to_do(gpus, monkeypatch):
    def fail():
        raise RuntimeError("No CUDA GPUs are\navailable")

    gpus(0)
    monkeypatch.setenv("GMML_GPUS", "4")
    monkeypatch.setattr(torch.cuda, "init", fail)
    with pytest.raises(LaunchError, match=f"^{HOST}: .*: No CUDA GPUs are available; check nvidia-smi there"):
        choose_device(RankInfo(0, 1, 0, 1))


def test_without_any_sign_of_a_gpu_a_rank_trains_on_the_processor(gpus):
    gpus(0)
    assert choose_device(RankInfo(0, 1, 0, 1)) == torch.device("cpu")


def test_equal_devices_may_join():
    assert check_devices([gpu(rank, host=f"n{rank // 4}") for rank in range(8)]) == []
    assert check_devices([DeviceInfo("n0", "cpu", "EPYC", 0, "")] * 3) == []


def test_one_rank_without_a_gpu_among_others_is_named_with_its_node():
    ranks = [gpu(0), gpu(1), DeviceInfo("n7", "cpu", "EPYC", 0, ""), gpu(3)]
    with pytest.raises(LaunchError, match=r"^n7: no GPU for rank 2 \(1 of 4 ranks\), which other ranks have; install"):
        check_devices(ranks)


def test_two_ranks_with_the_same_gpu_are_named_with_both_numbers():
    ranks = [gpu(0, count=1, id="GPU-a"), gpu(1, host="n1", id="GPU-a"), gpu(2, count=1, id="GPU-a")]
    with pytest.raises(LaunchError, match=r"^n0: 2 ranks on this node and 1 GPU visible: ranks 0 and 2 share it; set"):
        check_devices(ranks)


def test_other_models_and_numbers_of_gpus_are_allowed_and_named():
    ranks = [gpu(0), gpu(1, host="n1", name="A100", count=3)]
    assert check_devices(ranks) == [
        "devices differ in name: H100 on rank 0 (n0); A100 on rank 1 (n1)",
        "devices differ in count: 4 on rank 0 (n0); 3 on rank 1 (n1)",
    ]


def test_a_gpu_is_distinguished_from_others_by_its_uuid(gpus, monkeypatch):
    gpus(1)
    properties = SimpleNamespace(name="NVIDIA H100", uuid="8932f937", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    found = devices.device_info(torch.device("cuda", 0))
    assert (found.kind, found.name, found.count, found.id) == ("cuda", "NVIDIA H100", 1, "8932f937")
    assert found.memory_bytes == 80 * 2**30


def test_rank_0_knows_the_smallest_gpu_of_all_ranks(monkeypatch):
    sizes, kept = {0: 80, 1: 24, 2: 40}, {}
    kv = SimpleNamespace(set=kept.__setitem__, wait=lambda key, timeout_s: kept[key])

    def gathered(rank):
        found = DeviceInfo(HOST, "cuda", "A100", 4, f"GPU-{rank}", sizes[rank])
        monkeypatch.setattr(devices, "device_info", lambda device: found)
        return gather_devices(kv, RankInfo(rank, 3, rank, 3), torch.device("cuda"))

    others = [gathered(rank) for rank in (2, 1)]
    assert others == [[], []]
    assert least_memory_bytes(gathered(0)) == 24


def test_processors_have_no_memory_of_their_own():
    assert least_memory_bytes([DeviceInfo("n0", "cpu", "EPYC", 0, "")] * 3) is None


def test_the_claim_has_the_versions_and_variables_that_sums_on_gpus_depend_on(gpus, monkeypatch):
    gpus(1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda.nccl, "version", lambda: (2, 29, 3))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91700)
    monkeypatch.setenv("NCCL_ALGO", "Ring")
    fields = machine_fields(RankInfo(0, 8, 0, 4))
    assert (fields["nodes"], fields["device"], fields["cuda"]) == (2, "NVIDIA H100", "13.0")
    assert (fields["cudnn"], fields["nccl"], fields["nccl_environment"]["NCCL_ALGO"]) == (91700, "2.29.3", "Ring")
