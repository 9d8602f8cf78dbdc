"""A module on a node of a Ray cluster: what scores a checkpoint where `--cluster` names Ray.

Here it is sent; `python -m gmml_cluster.launch.ray.module MODULE ...` is the job's command and runs it there, with its
lines marked. Nothing of it is a run: nobody restarts it, and what it finds is kept in the root of the scored run.
"""

import runpy
import socket
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gmml_cluster.launch.imports import lacking_on_ray
from gmml_cluster.launch.ray.command import Command, follow
from gmml_cluster.launch.ray.marks import mark_output
from gmml_cluster.launch.ray.requests import section

if TYPE_CHECKING:
    from gmml_cluster.launch.snapshot import Snapshot
    from gmml_cluster.spec.cluster import ClusterProfile


def run_on_ray(profile: "ClusterProfile", module: str, arguments: Sequence[str], code: "Snapshot") -> int:
    """Run `python -m module` with these arguments on a node, with what one rank gets there; its exit code.

    Raises:
        LaunchError: the cluster is out of reach, or the job was lost.
    """
    ray = section(profile)
    options: dict[str, Any] = {
        "entrypoint_num_cpus": ray.cpus_per_rank,
        "entrypoint_num_gpus": 1 if ray.gpus_per_node else 0,
        "entrypoint_resources": ray.resources or None,
        "entrypoint_label_selector": ray.labels or None,
    }
    return follow(profile, ray, Command("eval", [__name__, module, *arguments], code, options))


def main(arguments: Sequence[str]) -> None:
    """Entry of the job: run the module as if it had been started itself."""
    mark_output()
    sys.argv = [*arguments]
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except ModuleNotFoundError as error:
        fault = lacking_on_ray(str(error.name), socket.gethostname(), "train", sys.executable)
        print(fault, file=sys.stderr)
        sys.exit(fault.exit_code)


if __name__ == "__main__":
    main(sys.argv[1:])
