"""A command on one node, in this terminal: what scores a checkpoint where `--cluster` names SLURM.

Nothing of it is a run: it is not requeued, and what it finds is kept in the root of the run that it scores.
"""

import math
import shlex
import subprocess
from collections.abc import Iterator, Sequence

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch.slurm import containers
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
    """The words of srun: the profile's options, then its variables, modules and setup lines before the module.

    With pyxis srun starts the shell in the image already, where the modules and setup lines of the node have no place.
    """
    slurm = profile.slurm
    python = containers.ranks_python(slurm, containers.root_folder(profile.root))
    exported = [f"export {name}={shlex.quote(value)}" for name, value in sorted(profile.environment.items())]
    exported += containers.variable_lines(slurm, sorted(profile.environment))
    is_inside = slurm.container is not None and slurm.container.runtime == "pyxis"
    of_node = [] if is_inside else [*containers.module_lines(slurm), *slurm.setup]
    lines = ["set -e", *exported, *of_node, f'exec {python} -m {module} "$@"']
    return ["srun", *_options(profile), "bash", "-c", "\n".join(lines), module, *arguments]


def _options(profile: ClusterProfile) -> Iterator[str]:
    slurm = profile.slurm
    yield from ("--job-name=gmml-eval", "--nodes=1", "--ntasks=1", "--export=ALL")
    yield from (f"--cpus-per-task={slurm.cpus_per_rank}", f"--time={math.ceil(slurm.time / 60)}")
    for name in ("partition", "account", "qos", "constraint", "exclude", "reservation"):
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
    yield from containers.srun_arguments(slurm, containers.root_folder(profile.root), [])
    yield from slurm.srun_args
