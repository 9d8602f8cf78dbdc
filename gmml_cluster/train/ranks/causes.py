"""Why a rank failed: what an exception says about cause and origin, and which of several ranks' errors is the root."""

import errno
import socket
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

from gmml_cluster.errors import GmmlError, StorageError
from gmml_cluster.run.ends.causes import Cause
from gmml_cluster.run.ends.symptoms import Kind, of_message
from gmml_cluster.train.ranks.cluster_env import node_name
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.watchdog import Hang

_ORDER: tuple[Kind, ...] = ("own", "lost_peer", "timeout")
_STORAGE_ERRNOS = (
    errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE, errno.EROFS, errno.ENOTCONN, errno.ESHUTDOWN, errno.EREMOTEIO
)  # fmt: skip
"""Of a full or a broken file system; the last three are what a network file system answers once it lost its server."""


def describe(error: BaseException, rank_info: RankInfo) -> dict[str, Any]:
    """What the other ranks and the log learn of an error.

    Returns:
        rank, host, node (by the scheduler's name, where it names one), kind (`own`, `lost_peer`, `timeout`), cause (one
        of `run.causes`), message, traceback, time.
    """
    message = f"{type(error).__name__}: {error}"
    kind, cause = _classify(error, message)
    return {
        "rank": rank_info.rank,
        "host": socket.gethostname(),
        "node": node_name(),
        "kind": kind,
        "cause": cause,
        "message": message[:2000],
        "traceback": "".join(traceback.format_exception(error))[-8000:],
        "time": time.time(),
    }


def root_cause(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """The error that the others follow from: a rank's own, then a lost peer, then a time-out; of equals the first.

    That is by `order`, in which they reached rank 0's store, where it is known: clocks of nodes differ by more than
    what lies between two errors.
    """
    return min(errors, key=lambda e: (_ORDER.index(e["kind"]), e.get("order", float("inf")), e["time"]))


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
    if isinstance(error, AssertionError):
        return "own", "error"  # its words are those of whoever wrote it
    return of_message(message) or ("own", "error")


def _is_of_storage(error: BaseException) -> bool:
    return isinstance(error, OSError) and error.errno in _STORAGE_ERRNOS


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and those it was raised from, `raise ... from ...` alone."""
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


def log_fields(error: Mapping[str, Any]) -> dict[str, Any]:
    """The part of an error that goes into the log: its node only where the error is the rank's own."""
    blamed = ("node",) if error["kind"] == "own" and error.get("node") else ()
    return {name: error[name] for name in ("rank", "host", "message", *blamed)}
