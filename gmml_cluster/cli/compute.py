"""What commands that compute need; those that need torch run in a process of their own."""

import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec

from gmml_cluster.errors import Fault, PreflightError

_EXTRAS = {"numpy": "data", "torch": "train", "tensorboard": "train", "safetensors": "export"}


def run_module(module: str, arguments: Sequence[str], *, needs: str, cluster: str | None = None) -> int:
    """Run `python -m module` with these arguments and this terminal; its exit code.

    Args:
        module: what is run.
        arguments: its own.
        needs: package that the module cannot do without.
        cluster: profile; on one of SLURM the module runs on a node, and the package need not be here.

    Raises:
        SpecError: there is no such profile.
        PreflightError: the package, or srun, is not installed here.
    """
    if cluster is not None:
        from gmml_cluster.launch.prepare import profile_named

        profile, _ = profile_named(cluster)
        if profile.launcher == "slurm":
            from gmml_cluster.launch.slurm.interactive import run_on_node

            return run_on_node(profile, module, arguments)
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
