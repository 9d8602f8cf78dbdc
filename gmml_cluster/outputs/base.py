"""What all documents have in common, and the document of an error."""

from typing import Literal

from typing_extensions import TypedDict  # pydantic makes no schema of typing's own before Python 3.12

from gmml_cluster.errors import Fault, GmmlError


class FirstVersion(TypedDict):
    """A document whose fields have kept their meaning so far."""

    version: Literal[1]
    """Of this document: raised when a field goes or changes its meaning."""


class FaultOutput(TypedDict):
    """One thing that is wrong."""

    where: str
    """File and line, field, shard and member, or rank and node; empty where that is not known."""
    problem: str
    """What is wrong, with the value and the rule that it breaks."""
    hint: str
    """What to do about it; empty where `problem` says it."""


class ErrorOutput(FirstVersion):
    """Why a command failed, or why a document cannot be given.

    Where a document is expected and cannot be given, this one stands in its place: alone, as the last line, or in a
    list. It is known by its field `error`.
    """

    error: str
    """Class of the error in `gmml_cluster.errors`; `UsageError` of wrong arguments, `Interrupted` after Ctrl-C."""
    exit_code: int
    """Of a command that fails with it: what kind of repair it takes."""
    faults: list[FaultOutput]
    """All that is wrong, at least one."""


def error_document(error: GmmlError) -> ErrorOutput:
    """An error for programs."""
    return fault_document(type(error).__name__, error.exit_code, error.faults or [Fault("", str(error))])


def fault_document(error: str, exit_code: int, faults: list[Fault]) -> ErrorOutput:
    """An error for programs, from its parts."""
    listed: list[FaultOutput] = [
        {"where": fault.where, "problem": fault.problem, "hint": fault.hint} for fault in faults
    ]
    return {"version": 1, "error": error, "exit_code": exit_code, "faults": listed}
