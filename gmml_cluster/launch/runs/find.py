"""Which run is meant, and where runs are looked for: under the roots of profiles and of submissions from here."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.run.finding.discovery import (
    demand_root,
    find_run,
    listed_of_noted,
    noted_roots,
    runs_below,
    runs_under,
    set_aside,
    silence_file,
)
from gmml_cluster.run.finding.silent_roots import SilentRoots
from gmml_cluster.run.root import RunRoot, absolute
from gmml_cluster.spec.loading.compose import compose
from gmml_cluster.spec.packaged import packaged


def find(run: str, root: str | None) -> RunRoot:
    """The run of this name, unique prefix or folder; profiles that cannot be read are reported if there is none.

    Raises:
        SpecError: there is none, or there are several; lists them.
    """
    if root is not None and "/" not in run:
        demand_root(root)
    faults: list[Fault] = []
    roots = known_roots(root, faults)
    silent = SilentRoots(silence_file())
    answering = [each for each in roots if root is not None or not silent.is_paused(each)]
    if answering != roots:
        with suppress(SpecError):  # else those that did not answer lately are worth their time
            return find_run(run, answering)
    try:
        return find_run(run, roots)
    except SpecError:
        _report(faults)
        raise


def every(root: str | None) -> list[RunRoot]:
    """All runs that lie under the known roots; a root or profile that cannot be read is reported on stderr.

    Raises:
        SpecError: the one root that was asked for does not exist.
        StorageError: it cannot be read.
    """
    if root is not None:
        return runs_under(root)
    faults: list[Fault] = []
    of_profiles = list(dict.fromkeys(_profile_roots(faults)))
    found = runs_below(of_profiles)
    noted = listed_of_noted(set_aside(noted_roots(), of_profiles))
    _report([*faults, *found.faults, *noted.faults])
    return [*found.runs, *noted.runs]


def known_roots(root: str | None, faults: list[Fault]) -> list[str]:
    """The root that was given, alone; else those of the profiles, and those of submissions from this machine.

    Args:
        root: what a user gave, if anything.
        faults: collects those of profiles that cannot be read; their roots are left out.
    """
    if root is not None:
        return [absolute(root)]
    return list(dict.fromkeys([*_profile_roots(faults), *noted_roots()]))


def _profile_roots(faults: list[Fault]) -> Iterator[str]:
    """Absolute roots of the profiles, read without pydantic; the rest of a profile is validated when it is used."""
    for folder in (Path("clusters"), *packaged("clusters")):
        for path in sorted(folder.glob("*.yaml")):
            try:
                root = compose(path, (), faults).plain().get("root")
                found = absolute(root) if isinstance(root, str) else None
            except SpecError as error:
                faults.extend(error.faults)
                continue
            if found is not None:
                yield found


def _report(faults: Iterable[object]) -> None:
    for fault in faults:
        print(fault, file=sys.stderr)
