"""Which runs a word of a command line means: one run, the runs of a sweep, or all whose names fit a pattern."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase

from gmml_cluster.errors import Fault, SpecError, StorageError
from gmml_cluster.launch.runs.find import every, find, known_roots
from gmml_cluster.run.finding.discovery import is_run
from gmml_cluster.run.finding.sweeps import entries_of
from gmml_cluster.run.root import RunRoot
from gmml_cluster.store.open import open_store

_WILD = "*?["


@dataclass(frozen=True)
class SelectedRuns:
    """What is meant.

    Attributes:
        runs: at least one.
        is_group: whether a sweep or a pattern was named, be it of a single run.
    """

    runs: tuple[RunRoot, ...]
    is_group: bool


def select(text: str, root: str | None) -> SelectedRuns:
    """The runs that are meant by a run's name, folder, URL or unique prefix, by a sweep's name, or by a pattern.

    A run's own name comes before a sweep's, and that before a prefix.

    Args:
        text: what a user wrote; a pattern has `*`, `?` or `[`.
        root: look under this folder or URL alone.

    Raises:
        SpecError: nothing is meant, or a prefix that several runs share.
    """
    if "/" not in text and any(character in text for character in _WILD):
        return _fitting(text, root)
    try:
        found = find(text, root)
    except SpecError:
        of_sweep = runs_of_sweep(text, root)
        if not of_sweep:
            raise
        return SelectedRuns(tuple(of_sweep), is_group=True)
    of_sweep = [] if found.name == text or "/" in text else runs_of_sweep(text, root)
    return SelectedRuns(tuple(of_sweep), is_group=True) if of_sweep else SelectedRuns((found,), is_group=False)


def select_all(texts: Sequence[str], root: str | None) -> list[RunRoot]:
    """The runs that any of the words means, each once, in their order."""
    runs = [run for text in texts for run in select(text, root).runs]
    return list({run.url: run for run in runs}.values())


def runs_of_sweep(name: str, root: str | None) -> list[RunRoot]:
    """The runs of a sweep that there are, in the order of its values; empty where no root has a sweep of this name.

    Args:
        name: the sweep's.
        root: look under this folder or URL alone; else under all that are known here. One that cannot be read is
            passed over.

    Raises:
        SpecError: several roots have a sweep of this name.
    """
    found: dict[str, list[RunRoot]] = {}
    for each in known_roots(root, []):
        try:
            url = open_store(each).url
        except SpecError:  # noted by another version, in a store that this one does not have
            continue
        with suppress(StorageError):
            runs = [RunRoot(url, entry.run) for entry in entries_of(url, name)]
            if existing := [run for run in runs if is_run(run)]:
                found[url] = existing
    if len(found) > 1:
        raise SpecError(Fault(name, f"is a sweep under {' and under '.join(found)}", "choose one by --root"))
    return next(iter(found.values()), [])


def _fitting(pattern: str, root: str | None) -> SelectedRuns:
    runs = [run for run in every(root) if fnmatchcase(run.name, pattern)]
    if not runs:
        raise SpecError(Fault(pattern, "fits the name of no run that is known here", "gmml status lists them"))
    return SelectedRuns(tuple(runs), is_group=True)
