"""Versions for the images, from an environment in which the tests passed: `python docker/pins.py > docker/pins.txt`.

The packages of all extras but `dev`, with all that they need, as far as the environment has them.
"""

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PROJECT = Path(__file__).parents[1] / "pyproject.toml"
HEAD = """\
# What images install: written by `python docker/pins.py` where the tests passed. Packages of the extras mlflow, trackio
# and wandb are in no test's environment and not pinned."""


def wanted() -> list[Requirement]:
    """What the package and its extras ask for, but for those of `dev` alone."""
    project = tomllib.loads(PROJECT.read_text())["project"]
    extras = {name: lines for name, lines in project["optional-dependencies"].items() if name != "dev"}
    lines = [*project["dependencies"], *(line for each in extras.values() for line in each)]
    return [found for found in map(Requirement, lines) if canonicalize_name(found.name) != project["name"]]


def pins(requirements: list[Requirement]) -> dict[str, str]:
    """Versions of what is required and installed here, and of what that requires; a build's own label is left out."""
    found: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    pending = [(requirement, extra) for requirement in requirements for extra in ("", *requirement.extras)]
    while pending:
        requirement, extra = pending.pop()
        name = str(canonicalize_name(requirement.name))
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            installed = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = installed.version.partition("+")[0]
        needs = [need for need in map(Requirement, installed.requires or ()) if _applies(need, extra)]
        pending += [(need, each) for need in needs for each in ("", *need.extras)]
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


if __name__ == "__main__":
    print(HEAD)
    for name, version in sorted(pins(wanted()).items()):
        print(f"{name}=={version}")
