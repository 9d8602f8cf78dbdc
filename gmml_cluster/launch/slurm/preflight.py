"""What would keep a submission from running on SLURM, by the tools, the profile and SLURM's own judgement."""

import logging
import math
import os
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from gmml_cluster.errors import Fault, PreflightError
from gmml_cluster.launch import imports
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm import batch, options
from gmml_cluster.launch.slurm.errors import refusal
from gmml_cluster.launch.slurm.evidence import seconds
from gmml_cluster.launch.slurm.folders import shared_folder
from gmml_cluster.launch.slurm.site import configured, partitions
from gmml_cluster.launch.slurm.tools import TOOLS, call, is_away, out_of_reach
from gmml_cluster.wording import counted

LEAVE_S = 10
_NOTHING_SUBMITTED = "nothing was submitted; try again once `scontrol ping` says that it is up"

_log = logging.getLogger(__name__)


def faults_of(submission: Submission) -> list[Fault]:
    """All that is wrong; SLURM itself is asked only where the rest has no fault.

    Raises:
        LaunchError: SLURM is out of reach.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        problem = f"{', '.join(missing)} not found on PATH; jobs are handed over with them"
        return [Fault("SLURM", problem, "go to a login node")]
    try:
        folder = shared_folder(submission)
    except PreflightError as error:
        return error.faults
    own = [*options.refused_options(submission), *options.control_characters(submission)]
    own += [*_folder_faults(folder), *_secret_faults(submission), *_python_faults(submission)]
    if own:
        return own
    _warn_of_kill_wait()
    _warn_of_image(submission)
    if not options.may_requeue(submission):
        _log.warning(
            "slurm.sbatch_args: no-requeue: SLURM will not start the job again; at a preemption, its time limit or a "
            "lost node it submits a successor, if the site lets nodes call sbatch; else `gmml resume %s` is needed",
            submission.name,
        )
    return _judged(batch.text(submission), submission) or [*_limit_faults(submission)]


def _judged(script: str, submission: Submission) -> list[Fault]:
    done = call("sbatch", "--test-only", text=script)
    if is_away(done):
        raise out_of_reach("sbatch --test-only", done.stderr, _NOTHING_SUBMITTED)
    return [] if done.returncode == 0 else [refusal(done.stderr, submission)]


def _limit_faults(submission: Submission) -> Iterable[Fault]:
    """What a site may let wait for ever instead of refusing it: more time or nodes than any partition asked for."""
    mine = partitions(submission.profile.slurm.partition)
    minutes, nodes = math.ceil(submission.profile.slurm.time / 60), submission.plan.node_range.least
    for field, name, value, shown_value in (
        ("slurm.time", "MaxTime", minutes, f"{minutes} min"),
        ("resources.nodes", "MaxNodes", nodes, counted(nodes, "node")),
    ):
        if mine and value > max(limit(one.get(name, "")) for one in mine):
            most = ", ".join(f"{one['PartitionName']}: {name}={one[name]}" for one in mine)
            yield Fault(field, f"{shown_value} would wait for ever; the partition's limit is {most}", "ask for less")


def limit(shown: str) -> float:
    """A number, or minutes of a time as SLURM writes it; infinite for any other word."""
    if shown.isdigit():
        return int(shown)
    found = seconds(shown)
    return math.inf if found is None else found / 60


def _folder_faults(folder: Path) -> Iterable[Fault]:
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problem = f"{existing} is not a folder you can write to; job scripts and logs lie there"
        yield Fault("slurm.folder", problem, "choose another")


def _python_faults(submission: Submission) -> Iterable[Fault]:
    """Whether the job's Python has what the ranks import and can run what restarts depend on, as far as is known here.

    The submitting interpreter is the job's by default, so what it lacks is refused here. One that the profile names may
    differ from the one of that name on the nodes, and setup lines can change either: then the script's first lines look
    for the modules, and end the job with the same words. What an image has is never known here.
    """
    slurm = submission.profile.slurm
    wanted = () if slurm.container else submission.imports
    before = "slurm.setup" if slurm.setup else "slurm.modules" if slurm.modules else ""
    if slurm.python is None:
        lacking = imports.missing(wanted)
        if lacking and not before:
            yield imports.fault(lacking, sys.executable, "slurm.python")
        return
    if before or shutil.which(shlex.split(slurm.python)[0]) is None:
        why = f"{before} comes before it" if before else "it is found on the nodes alone"
        _log.warning("slurm.python: %r is not tried here, %s; the job tries it at its start", slurm.python, why)
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / submission.code.file_name
        archive.write_bytes(submission.code.data)
        problem = _tried(archive, f"{slurm.python} -m gmml_cluster.launch.slurm.restart --help")
        if problem is not None:
            problem = f"{slurm.python!r} cannot run gmml_cluster.launch.slurm.restart: {problem}"
            yield Fault("slurm.python", problem, "name another, or repair it")
            return
        lacking = [name for name in wanted if _lacks(archive, slurm.python, name)]
    if lacking:
        _log.warning("%s; the nodes may differ", imports.fault(lacking, slurm.python, "slurm.python"))


def _lacks(archive: Path, python: str, module: str) -> bool:
    return _tried(archive, f"{python} -m gmml_cluster.launch.imports {shlex.quote(module)}") is not None


def _tried(archive: Path, command: str) -> str | None:
    """None where a shell command runs with the submitted code; else the last line that it wrote to stderr."""
    done = call("env", "PYTHONSAFEPATH=1", f"PYTHONPATH={archive}", "sh", "-c", command)
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]


def _secret_faults(submission: Submission) -> Iterable[Fault]:
    for name in submission.profile.secrets:
        if name not in os.environ:
            problem = f"{name} is not set in this shell; the ranks would lack it"
            yield Fault("secrets", problem, "export it and submit again")


def _warn_of_image(submission: Submission) -> None:
    container = submission.profile.slurm.container
    if container and container.image.startswith(("/", "./")) and not Path(container.image).exists():
        _log.warning("slurm.container.image: no file %s here; the nodes must have it", container.image)


def _warn_of_kill_wait() -> None:
    kill_wait = configured("KillWait")
    if kill_wait.isdigit() and int(kill_wait) <= LEAVE_S:
        _log.warning(
            "SLURM: KillWait is %s s; ranks leave within %d s of the first, and a preemption without grace leaves "
            "no more than KillWait for saving; ask the site for 30",
            *(kill_wait, LEAVE_S),
        )
