"""The faults of this project, named by what their reader must do. A leaf: everything may import it.

A message reads `<where>: <what is wrong, with the value>; <rule or reason>; <what to do>`.
"""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        where: file and line, field, shard and member, or rank and node.
        problem: what is wrong, with the value and the rule that it breaks.
        hint: what the user should do; empty where `problem` says it.
    """

    where: str
    problem: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f"; {self.hint}" if self.hint else "")


class GmmlError(Exception):
    """Root of all faults that a user can mend; `exit_code` is what a command leaves with."""

    exit_code = 1


class SpecError(GmmlError):
    """The job file, the profile or the arguments are wrong: edit them. Holds all faults at once."""

    exit_code = 2

    def __init__(self, faults: Fault | list[Fault]) -> None:
        self.faults = [faults] if isinstance(faults, Fault) else list(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class PreflightError(SpecError):
    """The cluster, the store or credentials refuse this run: mend them."""

    exit_code = 3


class LaunchError(GmmlError):
    """The scheduler or the store could not be reached or refused; nothing is known to run."""

    exit_code = 4


class StorageError(GmmlError):
    """The store failed, or answered what it must not, after all retries."""

    exit_code = 4


class ShardChanged(StorageError):
    """A shard no longer is what its run pinned: put it back."""


class DataError(GmmlError):
    """A corpus is damaged or has changed: mend the corpus."""

    exit_code = 3


class CheckpointError(GmmlError):
    """A checkpoint is damaged, incomplete or of another shape."""

    exit_code = 3


class RunFailed(GmmlError):
    """The run that was followed ended without finishing."""

    exit_code = 5


class Fenced(GmmlError):
    """A younger attempt, a stop or another run holds the log: leave quietly and publish nothing."""
