"""A look at a Ray cluster from one of its nodes, for the preflight: `python -m gmml_cluster.launch.ray.look`.

Runs as a job of its own, with the submitted code and the runtime environment of the run, and prints one line of JSON.
"""

import argparse
import json
import os
import platform
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gmml_cluster.errors import Fault
from gmml_cluster.launch.checks.preflight import store_faults
from gmml_cluster.launch.imports import missing
from gmml_cluster.launch.ray.requests import MARK, marker
from gmml_cluster.launch.ray.room import has_labels, ranks_on


def look(labels: Mapping[str, str], resources: Mapping[str, float], **task: Any) -> dict[str, Any]:
    """Versions, how many ranks the nodes can hold, and what is wrong on one node that can hold some."""
    nodes = [node for node in ray.nodes() if has_labels(node, labels)]
    holds = {node["NodeID"]: ranks_on(node["Resources"], resources) for node in nodes}
    chosen = next((node for node, ranks in holds.items() if ranks), None)
    return {
        "python": platform.python_version(),
        "ray": ray.__version__,
        "ranks": list(holds.values()),
        "faults": [] if chosen is None else _look_from(chosen, task),
    }


def _look_from(node: str, task: dict[str, Any]) -> list[tuple[str, str, str]]:
    on_node = NodeAffinitySchedulingStrategy(node, soft=False)
    started = ray.remote(faults_here).options(num_cpus=0, scheduling_strategy=on_node).remote(**task)
    # without a limit of its own: whoever submitted this job ends it where it takes too long
    return ray.get(started)  # type: ignore[no-any-return]


def faults_here(root: str, token: str, imports: Sequence[str], secrets: Sequence[str]) -> list[tuple[str, str, str]]:
    """What a rank on this node would lack, as (where, problem, hint).

    Args:
        root: under which the run will lie.
        token: of the file that the submitting machine left there, where the root is a folder.
        imports: packages of the ranks.
        secrets: names of variables.
    """
    host = socket.gethostname()
    found = []
    if lacking := missing(tuple(imports)):
        problem = f"{sys.executable} on node {host} starts the ranks and has no {' and no '.join(lacking)}"
        found.append(Fault("launcher", problem, "install gmml-cluster[train] in the nodes' environment or image"))
    for name in secrets:
        if name not in os.environ:
            problem = f"{name} is not set on node {host}; secrets are not sent, for Ray shows what it is sent"
            found.append(Fault("secrets", problem, "set it where `ray start` runs, or by the pods' secret"))
    seen = root if "://" in root else marked_folder(root, token)
    if seen is None:
        problem = f"node {host} does not see the folder of this machine"
        found.append(Fault(root, problem, "name a folder that all nodes share, or an object store, as `root`"))
    else:
        faults = store_faults(root)
        found += [Fault(fault.where, f"on node {host}: {fault.problem}", fault.hint) for fault in faults]
    return [(fault.where, fault.problem, fault.hint) for fault in found]


def marked_folder(root: str, token: str) -> Path | None:
    """The root, or the nearest folder above it, in which the file lies; None where none does."""
    return next((each for each in (Path(root), *Path(root).parents) if marker(each, token).exists()), None)


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the job."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.ray.look")
    for name in ("root", "token"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("imports", "secrets", "labels", "resources"):
        parser.add_argument(f"--{name}", type=json.loads, required=True)
    parser.add_argument("--namespace")
    given = vars(parser.parse_args(arguments))
    ray.init(address="auto", namespace=given.pop("namespace"), log_to_driver=False)
    print(MARK + json.dumps(look(**given)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
