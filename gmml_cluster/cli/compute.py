"""What commands that compute need; those that need torch run in a process of their own."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from gmml_cluster.errors import Fault, NotInstalled
from gmml_cluster.store.open import scheme_of

if TYPE_CHECKING:
    from gmml_cluster.launch.snapshot import Snapshot

_EXTRAS = {"numpy": "data", "torch": "train", "tensorboard": "train", "safetensors": "export", "bokeh": "report"}


def run_module(
    module: str, arguments: Sequence[str], *, needs: str, cluster: str | None = None, code: "Snapshot | None" = None
) -> int:
    """Run `python -m module` with these arguments and this terminal; its exit code.

    Args:
        module: what is run.
        arguments: its own.
        needs: package that the module cannot do without.
        cluster: profile; on one of SLURM or Ray the module runs on a node, and the package need not be here.
        code: what a cluster of Ray is sent.

    Raises:
        SpecError: there is no such profile.
        PreflightError: the package, or srun, is not installed here.
        LaunchError: the Ray cluster is out of reach, or has lost the job.
    """
    if cluster is not None:
        from gmml_cluster.launch.prepare import profile_named

        profile, _ = profile_named(cluster)
        if profile.launcher == "slurm":
            from gmml_cluster.launch.slurm.interactive import run_on_node

            return run_on_node(profile, module, arguments)
        if profile.launcher == "ray" and code is not None:
            from gmml_cluster.launch.ray.module import run_on_ray

            return run_on_ray(profile, module, arguments, code)
    demand(needs)
    return subprocess.run([sys.executable, "-m", module, *arguments], check=False).returncode


def absolute_url(url: str) -> str:
    """A corpus for a process that works in another folder."""
    return url if scheme_of(url) == "s3" else os.path.abspath(os.path.expanduser(url.removeprefix("file://")))


def demand(package: str) -> None:
    """Refuse to run without a package.

    Raises:
        NotInstalled: it is not installed here; names the extra that brings it.
    """
    if find_spec(package) is None:
        cure = f"pip install 'gmml-cluster[{_EXTRAS[package]}]'"
        raise NotInstalled(Fault(package, "not installed here, and this command needs it", cure))
