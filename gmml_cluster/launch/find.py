"""Which run is meant, and where runs are looked for: under the roots of profiles and of submissions from here."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from gmml_cluster.errors import Fault

if TYPE_CHECKING:
    from gmml_cluster.run.root import RunRoot


def find(run: str, root: str | None) -> "RunRoot":
    """The run of this name, unique prefix or folder.

    Raises:
        SpecError: there is none, or there are several; lists them.
    """
    from gmml_cluster.run.discovery import demand_root, find_run

    if root is not None and "/" not in run:
        demand_root(root)
    return find_run(run, known_roots(root))


def every(root: str | None) -> "list[RunRoot]":
    """All runs that lie under the known roots; a root that cannot be read is reported on stderr.

    Raises:
        SpecError: the one root that was asked for does not exist.
        StorageError: it cannot be read.
    """
    from gmml_cluster.run.discovery import runs_below, runs_under

    if root is not None:
        return runs_under(root)
    found = runs_below(known_roots(None))
    for fault in found.faults:
        print(fault, file=sys.stderr)
    return list(found.runs)


def known_roots(root: str | None) -> list[str]:
    """The root that was given, alone; else those of the profiles, and those of submissions from this machine."""
    from gmml_cluster.run.discovery import noted_roots
    from gmml_cluster.run.root import absolute

    if root is not None:
        return [absolute(root)]
    return list(dict.fromkeys([*map(absolute, _profile_roots()), *noted_roots()]))


def _profile_roots() -> Iterator[str]:
    """Roots that profiles name, read without pydantic; the rest of a profile is validated when it is used.

    A profile for a launcher that this version lacks can hold no run, so its root is left out.
    """
    import yaml

    import gmml_cluster

    package = Path(gmml_cluster.__file__).parent
    for folder in (Path("clusters"), package.parent / "clusters", package / "clusters"):
        for path in sorted(folder.glob("*.yaml")):
            try:
                profile = yaml.safe_load(path.read_text())
            except (OSError, ValueError, yaml.YAMLError) as error:
                problem = f"no profile ({' '.join(str(error).split())}); its root is not searched"
                print(Fault(str(path), problem, "fix it"), file=sys.stderr)
                continue
            if not isinstance(profile, dict) or profile.get("launcher") == "ray":
                continue
            if isinstance(profile.get("root"), str):
                yield profile["root"]
