"""A rank does to itself what `gmml drill` asked for, behind one step of the first attempt."""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from gmml_cluster.run.drills import LASTS_S, Drill
from gmml_cluster.store.rehearsal import rehearsal
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.stepper import Report

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Rehearsed:
    """Records steps as `write` does, and makes the fault behind its step."""

    write: Callable[[Report], None]
    drill: Drill
    rank_info: RankInfo

    def __call__(self, report: Report) -> None:
        """Called with the report of every step, in order."""
        self.write(report)
        if report.line["step"] == self.drill.step:
            self._do()

    def _do(self) -> None:
        # the last rank where it is one rank: rank 0, which writes the log, is the one that can say what happened
        is_last = self.rank_info.rank == self.rank_info.ranks - 1
        _log.warning("drill: %s", self.drill)
        match self.drill.kind:
            case "preempt":
                os.kill(os.getpid(), signal.SIGTERM)
            case "kill" if is_last:
                os.kill(os.getpid(), signal.SIGKILL)
            case "hang" if is_last:
                os.kill(os.getpid(), signal.SIGSTOP)
            case "disk":
                rehearsal.fill(LASTS_S)
            case "store":
                rehearsal.cut(LASTS_S)


def rehearsed(write: Callable[[Report], None], attempt: int, rank_info: RankInfo) -> Callable[[Report], None]:
    """`write`, with the drill that this process' environment asks for; itself where it asks for none."""
    drill = Drill.asked(os.environ, attempt)
    return write if drill is None else Rehearsed(write, drill, rank_info)
