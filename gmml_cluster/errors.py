"""The exceptions of this project, named by what their reader must do. A leaf: everything may import it."""

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Fault:
    """One thing that is wrong, printed as `where: problem; hint`.

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
    """Base of all errors that a user can do something about; `exit_code` is the exit code of the command.

    Attributes:
        faults: what is wrong, in its parts; empty where only a text was given.

    Args:
        fault: what is wrong. A plain text is for messages that were printed elsewhere, such as a rank's.
    """

    exit_code = 1

    def __init__(self, fault: Fault | str = "") -> None:
        self.faults = [fault] if isinstance(fault, Fault) else []
        super().__init__(str(fault))  # the text alone, so that the exception can be pickled between processes


class SpecError(GmmlError):
    """The job file, the profile or the arguments are wrong: edit them. Holds all faults at once."""

    exit_code = 2

    def __init__(self, faults: Fault | list[Fault]) -> None:
        found = [faults] if isinstance(faults, Fault) else list(faults)
        super().__init__("\n".join(str(fault) for fault in found))
        self.faults = found

    def __reduce__(self) -> tuple[type["SpecError"], tuple[list[Fault]]]:
        """Pickled by its faults: from its text alone they could not be made again."""
        return type(self), (self.faults,)


class PreflightError(SpecError):
    """The cluster, the store or the credentials would not let this run work: fix them."""

    exit_code = 3


class NotInstalled(PreflightError):
    """A package, which is the `where` of the fault, is not installed where the command runs: install it there."""


class LaunchError(GmmlError):
    """The scheduler or the store could not be reached or refused; no job is known to run."""

    exit_code = 4


class StorageError(GmmlError):
    """The store failed, or returned something impossible, after all retries."""

    exit_code = 4


class ShardChanged(StorageError):
    """A shard is no longer the file that its run pinned: restore it."""


class RunDamaged(GmmlError):
    """A file of a run was edited or damaged after the submission: restore it."""

    exit_code = 3


class DataError(GmmlError):
    """A corpus is damaged or has changed: fix the corpus."""

    exit_code = 3


class CheckpointError(GmmlError):
    """A checkpoint is damaged, incomplete or of another shape."""

    exit_code = 3


class RunFailed(GmmlError):
    """The run that was followed ended without finishing."""

    exit_code = 5


class WorkerLost(GmmlError):
    """A worker of a command died, killed by someone or by a lack of memory: repeat the command."""

    exit_code = 5


class Fenced(GmmlError):
    """A later attempt, a stop or another run owns the log: exit quietly and write nothing more."""
