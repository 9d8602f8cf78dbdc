"""Where a figure comes from: entries of the log, files of the run root, and the command that prints the same."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gmml_cluster.run.entries import Entry, slot_name

_SHOWN = 3


@dataclass(frozen=True)
class Source:
    """What one run contributes to a figure.

    Attributes:
        entries: slots of the log, in words; empty where no entry says it.
        files: within the run root, in words.
        command: prints the same figures.
    """

    run: str
    entries: str
    files: str
    command: str


def slots(entries: Iterable[Entry], *kinds: str) -> str:
    """The log entries of these kinds, by their files."""
    found = [entry.slot for entry in entries if entry.kind in kinds]
    if not found:
        return ""
    return f"{', '.join(kinds)}: {listed([slot_name(slot) for slot in found])}"


def listed(names: Sequence[str]) -> str:
    """Files by name, the first and the last where there are many."""
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{names[0]} to {names[-1]} ({len(names):,})"
