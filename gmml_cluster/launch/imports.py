"""Whether a Python has the modules that ranks import: `python -m gmml_cluster.launch.imports torch deepspeed`.

Looks for them without importing them: torch takes seconds, and one that is broken says so itself in the rank.
"""

import argparse
import platform
import sys
from collections.abc import Iterable, Sequence
from importlib.util import find_spec

from gmml_cluster.errors import Fault, PreflightError


def missing(modules: Iterable[str]) -> list[str]:
    """Those of the modules that this Python lacks."""
    return [name for name in modules if find_spec(name) is None]


def fault(lacking: Sequence[str], python: str, where: str) -> Fault:
    """What to do where a Python lacks modules.

    Args:
        lacking: names of the modules.
        python: the interpreter or its command.
        where: field or node at fault.
    """
    cure = "install them there (pip install 'gmml-cluster[train]'), or name a Python that has them in slurm.python"
    return Fault(where, f"{python} has no {' and no '.join(lacking)}, which the ranks import", cure)


def lacking_on_ray(package: str, node: str, extra: str, python: str = "Python") -> PreflightError:
    """What to do where a node of a Ray cluster lacks a package that a command needs there.

    Args:
        package: its name when it is imported.
        node: name or address.
        extra: which installs what the command needs, but for parquet files.
        python: the interpreter there, where it is known.
    """
    extra = "parquet" if package == "pyarrow" else extra
    cure = f"install gmml-cluster[{extra}] in the nodes' environment or image, or add it to ray.runtime_env (pip)"
    return PreflightError(Fault(f"node {node}", f"{python} has no {package}, which this command needs there", cure))


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is lacking to stderr; the exit code says whether anything is."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.imports")
    parser.add_argument("modules", nargs="+")
    parser.add_argument("--exit", type=int, default=1, help="exit code where a module is lacking")
    given = parser.parse_args(arguments)
    lacking = missing(given.modules)
    if not lacking:
        return 0
    print(fault(lacking, sys.executable, platform.node()), file=sys.stderr)
    return int(given.exit)


if __name__ == "__main__":
    sys.exit(main())
