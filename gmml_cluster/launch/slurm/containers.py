"""The image in which a job's ranks run: options of srun for pyxis, words before Python for apptainer.

The batch script's own lines stay on the node, where SLURM's tools are: they need the launcher alone there.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm.folders import shared_folder
from gmml_cluster.spec.cluster import ContainerSection, SlurmSection


def own_folders(submission: Submission) -> list[str]:
    """Folders of the node that the ranks of a run need: its root, if that is one, and that of scripts and code."""
    return [*root_folder(submission.root), str(shared_folder(submission))]


def kept_variables(submission: Submission) -> list[str]:
    """Variables whose values in the ranks are the script's: where the submitted code lies, and those of the profile."""
    return ["PYTHONPATH", *sorted(submission.profile.environment)]


def root_folder(root: str) -> list[str]:
    """The root as a folder to mount; none of an object store."""
    path = root.removeprefix("file://")
    return [] if "://" in path else [str(Path(path).expanduser().absolute())]


def ranks_python(slurm: SlurmSection, folders: Sequence[str]) -> str:
    """What starts the ranks' Python, as a shell reads it.

    PYTHONNOUSERSITE: a home folder that is mounted has packages of the node's Python, which the image's would import.

    Args:
        slurm: of the profile.
        folders: mounted at the same paths, beside those that the profile names.
    """
    container = slurm.container
    if container is None:
        return slurm.python or shlex.quote(sys.executable)
    inside = f"env PYTHONNOUSERSITE=1 {container.python}"
    if container.runtime == "pyxis":
        return inside
    nvidia = ["--nv"] if slurm.gpus_per_node else []
    binds = [f"--bind={mount}" for mount in _mounts(container, folders)]
    return f"{shlex.join(['apptainer', 'exec', *nvidia, *binds, container.image])} {inside}"


def srun_arguments(slurm: SlurmSection, folders: Sequence[str], variables: Sequence[str]) -> list[str]:
    """Options of srun by which pyxis starts the ranks in the image; none for any other.

    Args:
        slurm: of the profile.
        folders: as for `ranks_python`.
        variables: names of those that are the script's in the image too, whatever values the image has.
    """
    container = slurm.container
    if container is None or container.runtime != "pyxis":
        return []
    mounts = ",".join(_mounts(container, folders))
    kept = [f"--container-env={','.join(variables)}"] if variables else []
    return [f"--container-image={container.image}", f"--container-mounts={mounts}", *kept]


def variable_lines(slurm: SlurmSection, variables: Sequence[str]) -> list[str]:
    """Shell lines by which apptainer gives the image the script's variables, whatever values the image has."""
    if slurm.container is None or slurm.container.runtime != "apptainer":
        return []
    return [f'export APPTAINERENV_{name}="${name}"' for name in variables]


def module_lines(slurm: SlurmSection) -> list[str]:
    """Shell lines that load the profile's environment modules, or leave with 1 and name the one that fails.

    `module` is a function, which a batch script has only where the submitting shell exported it; else the site's own
    file for login shells defines it.
    """
    if not slurm.modules:
        return []
    return [
        "for gmml_file in /etc/profile.d/{modules,lmod,z00_lmod}.sh; do",
        '    declare -F module >/dev/null || [ ! -r "$gmml_file" ] || . "$gmml_file" || true',
        "done",
        f"for gmml_module in {shlex.join(slurm.modules)}; do",
        '    module load "$gmml_module" ||',
        '        { echo "slurm.modules: $gmml_module cannot be loaded on $(hostname)" >&2; exit 1; }',
        "done",
    ]


def _mounts(container: ContainerSection, folders: Sequence[str]) -> Iterator[str]:
    """As SOURCE:TARGET, with whatever flags follow; a folder that a mount of the profile has as its target, once."""
    named = [mount if ":" in mount else f"{mount}:{mount}" for mount in container.mounts]
    targets = {mount.split(":")[1] for mount in named}
    yield from (f"{folder}:{folder}" for folder in dict.fromkeys(folders) if folder not in targets)
    yield from named
