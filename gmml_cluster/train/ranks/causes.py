"""Why a rank failed: what an exception says about cause and origin, and which of several ranks' errors is the root."""

import errno
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from gmml_cluster.errors import GmmlError, StorageError
from gmml_cluster.run.causes import Cause
from gmml_cluster.train.ranks.rendezvous import UNWRITTEN, RankInfo
from gmml_cluster.train.ranks.watchdog import Hang

Kind = Literal["own", "lost_peer", "timeout"]
_ORDER: tuple[Kind, ...] = ("own", "lost_peer", "timeout")

# Parts of messages of torch, CUDA, NCCL, gloo and the kernel, in the order in which they are tried: NCCL's and CUDA's
# messages quote each other, and the first line that fits is the closest to the origin.
_MESSAGES: tuple[tuple[str, Kind, Cause], ...] = (
    ("out of memory", "own", "out_of_memory"),  # CUDA, and torch's OutOfMemoryError
    ("can't allocate memory", "own", "out_of_memory"),  # torch's allocator on CPU
    ("CUBLAS_STATUS_ALLOC_FAILED", "own", "out_of_memory"),
    ("CUDNN_STATUS_ALLOC_FAILED", "own", "out_of_memory"),
    ("ECC error", "own", "hardware"),  # uncorrectable ECC error encountered
    ("unspecified launch failure", "own", "hardware"),
    ("illegal memory access", "own", "hardware"),
    ("misaligned address", "own", "hardware"),
    ("Xid", "own", "hardware"),  # the driver's numbered faults, as the kernel logs them
    ("CUDA-capable device(s) is/are busy or unavailable", "own", "hardware"),
    ("GPU is lost", "own", "hardware"),
    ("hardware error", "own", "hardware"),
    ("ncclUnhandledCudaError", "own", "hardware"),
    # a rank that waited for a lost peer raises these; another rank's own error outranks them
    ("NCCL watchdog", "timeout", "hardware"),
    ("Watchdog caught collective operation timeout", "timeout", "hardware"),
    ("ncclSystemError", "lost_peer", "hardware"),
    ("ncclInternalError", "lost_peer", "hardware"),
    ("Connection closed by peer", "lost_peer", "lost"),
    ("Connection reset by peer", "lost_peer", "lost"),
    ("Broken pipe", "lost_peer", "lost"),
    ("NCCL", "lost_peer", "lost"),  # ncclRemoteError: a peer exited or the network failed
    ("Timed out waiting", "timeout", "lost"),
    (UNWRITTEN, "timeout", "lost"),
)
_STORAGE_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS)


def describe(error: BaseException, rank_info: RankInfo) -> dict[str, Any]:
    """What the other ranks and the log learn of an error.

    Returns:
        rank, host, kind (`own`, `lost_peer`, `timeout`), cause (one of `run.causes`), message, traceback, time.
    """
    message = f"{type(error).__name__}: {error}"
    kind, cause = _classify(error, message)
    return {
        "rank": rank_info.rank,
        "host": socket.gethostname(),
        "kind": kind,
        "cause": cause,
        "message": message[:2000],
        "traceback": "".join(traceback.format_exception(error))[-8000:],
        "time": time.time(),
    }


def root_cause(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """The error that the others follow from: a rank's own, then a lost peer, then a time-out; of equals the earliest.

    Times are those of the ranks' own clocks.
    """
    return min(errors, key=lambda error: (_ORDER.index(error["kind"]), error["time"]))


def _classify(error: BaseException, message: str) -> tuple[Kind, Cause]:
    # by type first: a StorageError may quote "Connection reset by peer", and no peer is lost then
    if isinstance(error, StorageError):
        return "own", "storage"
    if isinstance(error, GmmlError):
        return "own", "error"
    if any(isinstance(link, StorageError) or _is_of_storage(link) for link in _chain(error)):
        return "own", "storage"
    if isinstance(error, Hang):
        return "timeout", "hang"  # another rank's own error is why it waited
    if isinstance(error, MemoryError):
        return "own", "out_of_memory"
    found = ((kind, cause) for part, kind, cause in _MESSAGES if part in message)
    return next(found, ("own", "error"))


def _is_of_storage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those it was raised from, `raise ... from ...` alone."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def log_fields(error: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an error that goes into the log."""
    return {name: error[name] for name in ("rank", "host", "message")}
