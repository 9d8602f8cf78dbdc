"""How the ranks of a start left, and what that proves where none of them could say it."""

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.run.codes import COME_BACK, FAILED, FINISHED, NEVER, STORAGE, UNFIT, UNMET
from gmml_cluster.run.ends import symptoms
from gmml_cluster.run.ends.causes import Cause

CRASHES = (signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV)
"""Signals that a process brings upon itself."""
_OURS = (FINISHED, FAILED, STORAGE, COME_BACK, NEVER, UNMET, UNFIT)
_CHARACTERS = 300
# What C++ prints of the exception that nobody caught.
_SAID = re.compile(r"\s+what\(\)")


@dataclass(frozen=True)
class RankExit:
    """How one rank left.

    Attributes:
        code: exit code, a signal counting as 128 and its number; None where it had to be ended.
        stopped: whether it was stopped by a signal, as by SIGSTOP, and would never have left.
        output: what it printed last.
        node: where it ran, by the scheduler's name; empty where that names no node to avoid.
    """

    rank: int
    code: int | None
    stopped: bool = False
    output: Sequence[str] = ()
    node: str = ""


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine is stopped by a signal or a debugger; False where that cannot be seen."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("T", "t")
    except (OSError, IndexError):
        return False


def evidence_of(exits: Sequence[RankExit], stderr_tail: str = "") -> Evidence:
    """The first rank of which anything is proved; a rank that lost its peer says so itself and proves nothing here.

    Args:
        exits: in the order in which the ranks left.
        stderr_tail: the error that is quoted in the log.
    """
    for rank in exits:
        found = _proved(rank)
        if found is not None:
            cause, how = found
            where = f"{rank.node}, rank {rank.rank}" if rank.node else f"rank {rank.rank}"
            return Evidence(cause, f"{where}: {how[:_CHARACTERS]}", stderr_tail=stderr_tail, node=rank.node)
    return Evidence(stderr_tail=stderr_tail)


def _proved(rank: RankExit) -> tuple[Cause, str] | None:
    if rank.stopped:
        return "hang", "its process is stopped by a signal"
    if rank.code is None or rank.code in (FINISHED, COME_BACK, NEVER):
        return None
    sign = symptoms.of_output(rank.output)
    if sign is not None:
        return sign
    if rank.code in _OURS or rank.code == 128 + signal.SIGTERM:
        return None
    if rank.code <= 128:
        return "error", f"exit code {rank.code}, without a word"
    if rank.code - 128 not in CRASHES:
        return "killed", f"signal {_name(rank.code - 128)}"
    said = next((line.strip() for line in rank.output if _SAID.match(line)), "")
    return "error", f"signal {_name(rank.code - 128)}" + (f"; {said}" if said else "")


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
