"""Commands that compute run in a process of their own, so that this one never imports numpy or torch."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from gmml_cluster.errors import LaunchError

_EXTRAS = {"numpy": "data", "torch": "train", "tensorboard": "train"}


def run_module(module: str, arguments: Sequence[str], *, needs: str) -> int:
    """Run `python -m module` with these arguments and this terminal; its exit code.

    Args:
        needs: package that the module cannot do without.
    Raises:
        LaunchError: the package is not installed here; names the extra that brings it.
    """
    if find_spec(needs) is None:
        extra = _EXTRAS[needs]
        raise LaunchError(f"{needs}: not installed here, and this command needs it; pip install 'gmml-cluster[{extra}]'")
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode
