"""What rank 0 writes when an attempt fails or is not wanted before its first step, and the codes ranks leave with."""

import logging
import os
import threading
from dataclasses import dataclass, field
from typing import Any

from gmml_cluster.errors import Fenced
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import COME_BACK, FAILED, FINISHED, NEVER
from gmml_cluster.run.root import RunRoot
from gmml_cluster.train.loop import LoopResult
from gmml_cluster.train.ranks.agreement import StartInfo
from gmml_cluster.train.ranks.shutdown import Leaving
from gmml_cluster.train.ranks.signals import Guardian

CODES: dict[LoopResult, int] = {"finished": FINISHED, "notice": COME_BACK, "cancelled": NEVER, "not_finite": FAILED}

_log = logging.getLogger(__name__)


@dataclass
class Start:
    """How far this rank has come, for a notice that comes before the first step and an error that comes after it.

    Attributes:
        attempt: the number that rank 0 claimed; None before.
        training: set when there is something to save.
        last_step: the last whose figures are known; None before.
    """

    attempt: int | None = None
    last_step: int | None = None
    training: threading.Event = field(default_factory=threading.Event)


def tell_failed_start(root: RunRoot, incarnation: StartInfo, error: dict[str, Any]) -> None:
    """Write that this start failed before its claim, and by which error."""
    which = {"job": incarnation.job, "restart": incarnation.restart}
    protocol.start_failed(root.log, incarnation.submit, **which, **_told_of(error))


def tell_end(root: RunRoot, attempt: int, error: dict[str, Any], *, last_step: int | None = None) -> None:
    """Write the `end` of an attempt that failed, with the error that tells most and the last step that was told."""
    step = {} if last_step is None else {"step": last_step}
    protocol.end(root.log, attempt, error["cause"], **step, **_told_of(error))


def _told_of(error: dict[str, Any]) -> dict[str, Any]:
    return {name: error[name] for name in ("rank", "host", "message")}


def leave_alone(guardian: Guardian) -> None:
    """Before the ranks have met there is nobody to tell of a notice."""
    if guardian.orders.stop:
        os._exit(COME_BACK)


def leave_early(root: RunRoot, guardian: Guardian, leaving: Leaving, start: Start) -> None:
    """Rank 0's: before the first step there is nothing to save, so a notice ends the attempt at once."""
    stop = guardian.orders.stop
    if not stop or start.training.is_set():
        return
    if start.attempt is None:
        leaving.leave(COME_BACK)
    try:
        cause = settled(root, start.attempt, stop)
        protocol.end(root.log, start.attempt, cause)
    except Fenced as fault:
        _log.info("%s", fault)
        leaving.leave(NEVER)
    leaving.leave(CODES[cause])


def settled(root: RunRoot, attempt: int, outcome: LoopResult) -> LoopResult:
    """A notice that came of a person's stop is a cancel."""
    stopped = protocol.look(root.log, attempt).stopped is not None
    return "cancelled" if stopped and outcome == "notice" else outcome
