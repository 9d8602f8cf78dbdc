"""Error files of a job's ranks: where they lie, whose error is the root cause, and what it says of the hardware.

Rank 0 and the batch script share one file. SLURM appends the output of every start of a job, so each rank begins a
start with `start_line`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gmml_cluster.launch.after.exits import RankExit
from gmml_cluster.launch.folders import folder_of
from gmml_cluster.launch.tail import last_lines
from gmml_cluster.run.codes import COME_BACK, NEVER
from gmml_cluster.run.ends.symptoms import names_device

_CHARACTERS = 300
_READ_RANKS = 16

_NOISE = re.compile(
    r"gmml: start \d+ of job |slurmstepd|"
    r"srun: (error: .*(Exited|exit code|Killed|Terminated|Aborted|fault|Node failure)|"
    r"Terminating|Job step|[Ff]orc|got SIG|launch/slurm: )"
)
_EXCEPTION = re.compile(r"([A-Za-z_][\w.]*)?(Error|Exception|Fault|Interrupt)(:|$)|terminate called|\s+what\(\)")
_TASK = re.compile(r"srun: error: (\S+): tasks? ([\d,-]+): (.*)")
# A watchdog that aborts blames no node: it runs in the rank that waited, not in the one that was waited for.
_WATCHDOG = re.compile(r"ProcessGroupNCCL.*[Ww]atchdog|[Ww]atchdog.*(ProcessGroupNCCL|NCCL|collective)")


def start_line(job: str, restart: str, rank: str) -> str:
    """First line that a rank writes in each start."""
    return f"gmml: start {restart} of job {job}, rank {rank}"


def error_file(submit: Mapping[str, Any], job: str, rank: int) -> Path | None:
    """What a rank of a job's starts wrote to stderr, rank 0 and the script into one file; None where there is none."""
    folder = folder_of(submit, job)
    path = None if folder is None else folder / f"{job}_{rank}_log.err"
    return path if path is not None and path.exists() else None


# How srun words the signals that ended a task, and their exit codes.
_SIGNALS = {
    "Killed": 137,
    "Terminated": 143,
    "Aborted": 134,
    "Segmentation fault": 139,
    "Bus error": 135,
    "Illegal instruction": 132,
    "Floating point exception": 136,
}


@dataclass(frozen=True)
class TaskExit:
    """How one rank ended, as srun reports it: `Exited with exit code 1`, `Killed`, `Aborted (core dumped)`."""

    rank: int
    node: str
    how: str

    @property
    def is_consequence(self) -> bool:
        """Whether the rank ended because others did: a signal ended it, or srun killed it after KillWait."""
        return bool(re.match(rf"Exited with exit code ({COME_BACK}|{NEVER}|143)$|Killed|Terminated", self.how))

    @property
    def code(self) -> int | None:
        """Its exit code, a signal counting as 128 and its number; None for words that are not known here."""
        exited = re.match(r"Exited with exit code (\d+)", self.how)
        return (
            int(exited[1]) if exited else next((c for word, c in _SIGNALS.items() if self.how.startswith(word)), None)
        )


class StartLogs:
    """The error files of the latest start of a job.

    Args:
        errors: the script's and rank 0's, `<job>_0_log.err`; the other ranks' lie beside it.
        seen: lines of it that earlier starts wrote.
    """

    def __init__(self, errors: Path, *, seen: int) -> None:
        self._errors = errors
        self.script = last_lines(errors, skip=seen)

    @cached_property
    def exits(self) -> list[TaskExit]:
        """Ranks that ended badly, in the order in which srun noticed, those that only followed others last."""
        return sorted(self._noticed, key=lambda task: task.is_consequence)

    @cached_property
    def _noticed(self) -> list[TaskExit]:
        return [
            TaskExit(rank, match[1], match[3])
            for match in map(_TASK.match, self.script)
            if match
            for rank in _numbers(match[2])
        ]

    def left(self) -> list[RankExit]:
        """How the ranks left, in the order in which srun noticed; without those that it killed after the first."""
        tasks = [task for at, task in enumerate(self._noticed[:_READ_RANKS]) if at == 0 or task.code != 137]
        return [RankExit(task.rank, task.code, output=self._lines_of(task.rank), node=task.node) for task in tasks]

    def tail(self) -> str:
        """The error of the rank that failed first, and its file; empty where no file has one.

        srun's exit code does not name that rank: under load KILL comes after KillWait, and a rank that was killed for
        another's failure leaves the higher code.
        """
        ranks = dict.fromkeys(task.rank for task in self.exits[:_READ_RANKS])
        for rank in [*ranks, 0]:
            if line := _error_line(self._lines_of(rank)):
                return f"{self._file(rank)} ends with {line[:_CHARACTERS]!r}"
        return ""

    @cached_property
    def hardware(self) -> str:
        """The line that proves a fault of the hardware; empty where there is none."""
        for task in self.exits[:_READ_RANKS]:
            for line in self._lines_of(task.rank):
                if names_device(line) or (_WATCHDOG.search(line) and task.how.startswith("Aborted")):
                    return f"{task.node}, rank {task.rank}: {line.strip()[:_CHARACTERS]}"
        return ""

    @cached_property
    def bad_nodes(self) -> tuple[str, ...]:
        """Nodes of ranks whose own output names a broken device."""
        broken = (task.node for task in self.exits[:_READ_RANKS] if any(map(names_device, self._lines_of(task.rank))))
        return tuple(dict.fromkeys(broken))

    def _file(self, rank: int) -> Path:
        return self._errors.with_name(self._errors.name.replace("_0_log", f"_{rank}_log"))

    def _lines_of(self, rank: int) -> Sequence[str]:
        """What a rank wrote in this start."""
        if rank == 0:
            return self.script
        lines = last_lines(self._file(rank))
        begun = [number for number, line in enumerate(lines) if line.startswith("gmml: start ")]
        return lines[begun[-1] :] if begun else lines


def _error_line(lines: Sequence[str]) -> str:
    """The last line that names an exception, or else the last that the rank itself wrote."""
    own = [line.strip() for line in lines if line.strip() and not _NOISE.match(line)]
    return next((line for line in reversed(own) if _EXCEPTION.match(line)), own[-1] if own else "")


def _numbers(shown: str) -> list[int]:
    """Numbers of a list as SLURM writes it, such as `0-2,5`."""
    found: list[int] = []
    for part in shown.split(","):
        first, _, last = part.partition("-")
        found += range(int(first), int(last or first) + 1)
    return found
