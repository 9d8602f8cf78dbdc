"""What commands that compute need; those that need torch run in a process of their own."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from gmml_cluster.errors import Fault, PreflightError

_EXTRAS = {"numpy": "data", "torch": "train", "tensorboard": "train", "safetensors": "export"}


def run_module(module: str, arguments: Sequence[str], *, needs: str) -> int:
    """Run `python -m module` with these arguments and this terminal; its exit code.

    Args:
        needs: package that the module cannot do without.
    """
    demand(needs)
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


def demand(package: str) -> None:
    """Refuse to run without a package.

    Raises:
        PreflightError: it is not installed here; names the extra that brings it.
    """
    if find_spec(package) is None:
        problem = f"not installed here, and this command needs it; pip install 'gmml-cluster[{_EXTRAS[package]}]'"
        raise PreflightError(Fault(package, problem))
