"""What an exception says about its origin, and which of several ranks' errors the others follow from."""

import errno

import pytest

from gmml_cluster.errors import CheckpointError, StorageError
from gmml_cluster.train.ranks.causes import describe, root_cause
from gmml_cluster.train.ranks.rendezvous import RankInfo

NCCL = "NCCL error in: ProcessGroupNCCL.cpp:3384"


def judged(error):
    described = describe(error, RankInfo(1, 2, 1, 2))
    return described["kind"], described["cause"]


@pytest.mark.parametrize(
    ("message", "kind", "cause"),
    [
        ("CUDA error: uncorrectable ECC error encountered", "own", "hardware"),
        ("CUDA error: unspecified launch failure", "own", "hardware"),
        ("CUDA error: an illegal memory access was encountered", "own", "error"),
        ("CUDA error: device-side assert triggered", "own", "error"),
        ("NVRM: Xid (PCI:0000:3b:00): 31, pid=7, MMU Fault", "own", "error"),
        ("unable to write to file </torch_7>: No space left on device (28)", "own", "storage"),
        ("[Errno 12] Cannot allocate memory", "own", "out_of_memory"),
        ("NVRM: Xid (PCI:0000:3b:00): 79, GPU has fallen off the bus", "own", "hardware"),
        (f"{NCCL}, unhandled cuda error, ncclUnhandledCudaError: Call to CUDA function failed", "own", "hardware"),
        ("NCCL watchdog: TIMEOUT in process group 0", "timeout", "hardware"),
        ("[Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", "timeout", "hardware"),
        (f"{NCCL}, remote process exited or there was a network error, ncclRemoteError", "lost_peer", "lost"),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", "own", "out_of_memory"),
        ("CUDA error: out of memory", "own", "out_of_memory"),
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", "own", "out_of_memory"),
        ("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes", "own", "out_of_memory"),
        ("[gloo] Connection closed by peer [127.0.0.1]:4", "lost_peer", "lost"),
        ("Timed out waiting 5000ms for recv", "timeout", "lost"),
        ("save/9/1 was not written within 600 s", "timeout", "lost"),
        ("/corpus/a.tar: is missing", "own", "error"),
        ("the specification is wrong", "own", "error"),
    ],
)
def test_a_message_says_whether_it_is_the_rank_s_own_error_and_its_cause(message, kind, cause):
    assert judged(RuntimeError(message)) == (kind, cause)


def test_types_decide_before_messages():
    assert judged(StorageError("s3://b/a: no answer (Connection reset by peer)")) == ("own", "storage")
    assert judged(CheckpointError("NCCL is not the matter")) == ("own", "error")
    assert judged(MemoryError()) == ("own", "out_of_memory")


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE])
def test_a_full_or_broken_disk_is_storage_whoever_met_it(number):
    assert judged(OSError(number, "x")) == ("own", "storage")


def test_an_error_that_comes_of_storage_is_storage_and_an_overlooked_one_is_not():
    wrapped, overlooked = RuntimeError("thread"), ValueError("x")
    wrapped.__cause__ = StorageError("disk full")
    overlooked.__context__ = StorageError("disk full")
    assert judged(wrapped) == ("own", "storage")
    assert judged(overlooked) == ("own", "error")


def test_own_errors_come_before_lost_peers_and_those_before_time_outs_then_the_earliest():
    def error(kind, time):
        return {"kind": kind, "time": time}

    late, lost, timeout = error("timeout", 1.0), error("lost_peer", 2.0), error("timeout", 3.0)
    own, earlier = error("own", 5.0), error("own", 4.0)
    assert root_cause([late, lost, timeout, own, earlier]) is earlier
    assert root_cause([late, lost, timeout]) is lost
    assert root_cause([timeout, late]) is late
    ahead, behind = {**own, "order": 1}, {**earlier, "order": 2}  # of clocks that differ
    assert root_cause([ahead, behind, lost]) is ahead
