"""A command on one node, in this terminal: what scores a checkpoint where `--cluster` names SLURM.

Nothing of it is a run: it is not requeued, and what it finds is kept in the root of the run that it scores.
"""

import math
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.slurm.tools import without_options
from gmml_cluster.spec.cluster import ClusterProfile

_NOT_OF_SRUN = ("no-requeue", "requeue", "gpus-per-node")


def run_on_node(profile: ClusterProfile, module: str, arguments: Sequence[str]) -> int:
    """Run `python -m module` with these arguments by srun, with one GPU where the profile has any; its exit code.

    Raises:
        PreflightError: there is no srun here.
    """
    try:
        return subprocess.run(command(profile, module, arguments), env=without_options(), check=False).returncode
    except FileNotFoundError as error:
        hint = "call it where jobs are submitted, or leave --cluster out"
        raise PreflightError(Fault("srun", "is not installed here", hint)) from error


def command(profile: ClusterProfile, module: str, arguments: Sequence[str]) -> list[str]:
    """The words of srun: the profile's options, then its variables and setup lines before the module."""
    python = profile.slurm.python or shlex.quote(sys.executable)
    exported = [f"export {name}={shlex.quote(value)}" for name, value in sorted(profile.environment.items())]
    lines = ["set -e", *exported, *profile.slurm.setup, f'exec {python} -m {module} "$@"']
    return ["srun", *_options(profile), "bash", "-c", "\n".join(lines), module, *arguments]


def _options(profile: ClusterProfile) -> Iterator[str]:
    slurm = profile.slurm
    yield from ("--job-name=gmml-eval", "--nodes=1", "--ntasks=1", "--export=ALL")
    yield from (f"--cpus-per-task={slurm.cpus_per_rank}", f"--time={math.ceil(slurm.time / 60)}")
    for name in ("partition", "account", "qos", "constraint", "exclude"):
        if value := getattr(slurm, name):
            yield f"--{name}={value}"
    if slurm.memory_per_node is not None:
        yield f"--mem={math.ceil(slurm.memory_per_node / 2**20)}M"
    given = {name.replace("_", "-"): value for name, value in slurm.sbatch_args.items()}
    typed = str(given.get("gpus-per-node", "")).rpartition(":")[0]  # such as a100 of a100:8
    if slurm.gpus_per_node or typed:
        yield f"--gpus-per-node={typed}:1" if typed else "--gpus-per-node=1"
    for name, value in given.items():
        if name not in _NOT_OF_SRUN and value is not False:
            yield f"--{name}" if value is True else f"--{name}={value}"
    yield from slurm.srun_args
