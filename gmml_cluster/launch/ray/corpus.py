"""`gmml corpus ... --cluster NAME` on a Ray cluster: the same command is its job there, its workers are tasks."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import gmml_cluster
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.launch.ray.command import Command, follow
from gmml_cluster.launch.snapshot import take

if TYPE_CHECKING:
    from gmml_cluster.spec.cluster import ClusterProfile

_MODULE = "gmml_cluster.cli.on_ray"


def follow_on_ray(profile: "ClusterProfile", words: Sequence[str]) -> int:
    """Run a command of `gmml corpus` on the profile's cluster; its exit code.

    Raises:
        SpecError: the profile is no Ray cluster.
        LaunchError: the cluster is out of reach, or the job was lost.
    """
    if profile.ray is None:
        raise SpecError(
            Fault("--cluster", f"launcher {profile.launcher}; corpora are made here or on Ray", "leave it out")
        )
    entry = [_MODULE, "--labels", json.dumps(profile.ray.labels)]
    code = take(Path(gmml_cluster.__file__).parent)
    command = Command("corpus", [*entry, *words], code, cure="what is done is kept: repeat the command")
    return follow(profile, profile.ray, command)
