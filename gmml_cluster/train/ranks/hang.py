"""Which rank the others wait for, by what each says of itself when one of them notices that nothing goes on.

The rank that notices is seldom the one to blame: all that wait in a collective run out of time at the same moment.
"""

import socket
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from gmml_cluster.train.ranks.cluster_env import node_name

_WAITING = ("/torch/distributed/", "/deepspeed/comm/")
"""Code whose calls return once all ranks have made them."""
_NAMED = 4

Position = Mapping[str, Any]


def place() -> dict[str, str]:
    """Where this rank runs: its host, and the scheduler's name of it."""
    return {"host": socket.gethostname(), "node": node_name()}


def position(phase: str, beats: int) -> dict[str, Any]:
    """Where this rank's main thread is.

    Args:
        phase: what it does, by its watchdog.
        beats: how often it has reported progress.

    Returns:
        Besides these `waits`: whether it is in a collective, and `at`: the innermost call outside of those.
    """
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    calls = traceback.extract_stack(frame)
    own = [call for call in calls if not _is_collective(call)]
    innermost = (own or calls)[-1]
    at = f"{innermost.name} at {PurePath(innermost.filename).name}:{innermost.lineno}"
    return {"phase": phase, "beats": beats, "waits": any(map(_is_collective, calls)), "at": at}


def _is_collective(call: traceback.FrameSummary) -> bool:
    return any(folder in PurePath(call.filename).as_posix() for folder in _WAITING)


def missing(positions: Sequence[Position | None]) -> list[int]:
    """The ranks that the others wait for; none where nothing distinguishes them.

    Those that do not answer, or else those that are in no collective while others are, or else those that have done
    less of the same.

    Args:
        positions: of all ranks; None of one that does not answer.
    """
    known = [each for each in positions if each is not None]
    silent = [rank for rank, each in enumerate(positions) if each is None]
    if silent or not known:
        return silent if known else []
    elsewhere = [rank for rank, each in enumerate(known) if not each["waits"]]
    if elsewhere:
        return elsewhere if len(elsewhere) < len(known) else []
    if len({each["phase"] for each in known}) > 1:
        return []
    most = max(each["beats"] for each in known)
    return [rank for rank, each in enumerate(known) if each["beats"] < most]


def blame(error: Mapping[str, Any], positions: Sequence[Position | None], places: Sequence[Position]) -> dict[str, Any]:
    """The error of a hang, with the rank that did not come, its host and its node in place of the one that noticed.

    Args:
        error: of the rank that noticed, as `causes.describe` makes it.
        positions: see `missing`.
        places: `place` of each rank; empty where it is not known.
    """
    found = missing(positions)
    if not found:
        return dict(error)
    named = [_named(rank, positions[rank], places[rank]) for rank in found[:_NAMED]]
    more = [f"{len(found) - _NAMED} more"] if len(found) > _NAMED else []
    first, where = found[0], places[found[0]]
    message = f"{error['message']}; all wait for {', '.join([*named, *more])}"
    blamed = {"kind": "own"} if len(found) == 1 else {}
    place_of = {name: where.get(name, "") for name in ("host", "node")}
    return {**error, "rank": first, **place_of, "message": message, **blamed}


def _named(rank: int, at: Position | None, where: Position) -> str:
    doing = "which does not answer" if at is None else f"which is in {at['at']}"
    return f"rank {rank}{' on ' + where['host'] if where.get('host') else ''}, {doing}"
