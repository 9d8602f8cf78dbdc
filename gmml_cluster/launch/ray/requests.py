"""What is sent to Ray's job API: the command, and the runtime environment with the submitted code."""

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.ray.client import RayJob, authentication
from gmml_cluster.launch.ray.turns import metadata_of

if TYPE_CHECKING:
    from gmml_cluster.spec.cluster import ClusterProfile, RaySection

MARK = "GMML_LOOK "
"""Begins the line in which the look at a cluster prints what it found."""


def marker(folder: Path, token: str) -> Path:
    """The file by which a node sees that it shares a folder with the submitting machine.

    Its name stays: a run that is resumed is looked for by its own code, which may be older than that which submits.
    """
    return folder / f".gmml-{token}"


def section(profile: "ClusterProfile") -> "RaySection":
    """The profile's part on Ray.

    Raises:
        PreflightError: there is none.
    """
    if profile.ray is None:
        raise PreflightError(Fault("ray", "has no address", "write ray: http://HEAD:8265 into the profile"))
    return profile.ray


def job_request(submission: Submission, job: RayJob, code: str) -> dict[str, Any]:
    """What is sent to the job API for a run: its driver.

    Args:
        submission: what is to run.
        job: the job's id, whose part there is also what the ranks claim by.
        code: file with the code.
    """
    ray, plan, of_sweep = section(submission.profile), submission.plan, metadata_of(submission)
    given = {
        "root": submission.root,
        "run": submission.name,
        "submit": job.submission,
        "job": str(job),
        "module": submission.module,
        "nodes": f"{plan.nodes[0]}..{plan.nodes[1]}",
        "ranks-per-node": str(plan.ranks_per_node),
        "placement": ray.placement,
        "resources": json.dumps(rank_resources(submission)),
        "labels": json.dumps(ray.labels),
        **_namespace(ray),
        **({"in-sweep": of_sweep["sweep"]} if of_sweep else {}),
    }
    return {
        "entrypoint": _command("gmml_cluster.launch.ray.driver", given),
        "submission_id": job.submission,
        "metadata": {"run": submission.run_root, "placement": ray.placement, **of_sweep},
        "runtime_env": _runtime_env(submission, code),
    }


def look_request(submission: Submission, token: str, code: str) -> dict[str, Any]:
    """What is sent to the job API for the preflight: a look at the cluster's nodes from one of them."""
    ray = section(submission.profile)
    given = {
        "root": submission.root,
        "token": token,
        "imports": json.dumps(submission.imports),
        "secrets": json.dumps(submission.profile.secrets),
        "labels": json.dumps(ray.labels),
        "resources": json.dumps(rank_resources(submission)),
        **_namespace(ray),
    }
    return {
        "entrypoint": _command("gmml_cluster.launch.ray.look", given),
        "submission_id": f"gmml-{token}",
        "runtime_env": _runtime_env(submission, code),
    }


def rank_resources(submission: Submission) -> dict[str, float]:
    """What Ray sets aside for each rank, by name."""
    ray = section(submission.profile)
    gpus = ray.gpus_per_node / submission.plan.ranks_per_node
    return {"CPU": float(ray.cpus_per_rank), **({"GPU": gpus} if gpus else {}), **ray.resources}


def _namespace(ray: "RaySection") -> dict[str, str]:
    return {} if ray.namespace is None else {"namespace": ray.namespace}


def _command(module: str, given: Mapping[str, str]) -> str:
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    return shlex.join(["python", "-u", "-m", module, *words])


def _runtime_env(submission: Submission, code: str) -> dict[str, Any]:
    ray = section(submission.profile)
    variables = {
        "GMML_GPUS": str(ray.gpus_per_node),
        "GMML_CPUS": str(ray.cpus_per_rank),  # Ray counts cores and binds no process to them
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": f"{ray.start:g}",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
        # else a worker that Ray ends, as it does with all of a lost driver, kills its rank before that can save
        "RAY_kill_child_processes_on_worker_exit": "0",
        **authentication(),
        **submission.profile.variables,
    }
    return {**ray.runtime_env, "working_dir": code, "env_vars": variables}
