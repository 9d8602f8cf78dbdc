"""SLURM's own commands, called without the options that a user's environment would add to them."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch.slurm.errors import reason

TOOLS = ("sbatch", "scancel", "scontrol", "squeue", "srun")
_LIMIT_S = 30
_ABSENT, _NO_ANSWER = 127, 124
_OPTIONS_BY_ENVIRONMENT = ("SACCT_", "SBATCH_", "SCANCEL_", "SCONTROL_", "SLURM_", "SQUEUE_")
_SITE = ("SLURM_CLUSTERS", "SLURM_CONF", "SLURM_JWT")
_AWAY = re.compile(r"unable to contact|socket timed out|connection refused|communication connection failure", re.I)


def call(*command: str, text: str | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a tool; one that is absent or does not answer in time has failed with code 127 or 124."""
    try:
        return subprocess.run(
            command,
            input=text,
            env=without_options(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_LIMIT_S,
            errors="replace",
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, _ABSENT, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, _NO_ANSWER, "", f"no answer in {_LIMIT_S} s")


def is_away(done: "subprocess.CompletedProcess[str]") -> bool:
    """Whether a tool failed because the controller did not answer it, not because it refused."""
    return done.returncode == _NO_ANSWER or (done.returncode != 0 and bool(_AWAY.search(done.stderr)))


def out_of_reach(command: str, stderr: str, known: str) -> LaunchError:
    """The fault of a controller that does not answer.

    Args:
        command: what was called.
        stderr: what it printed.
        known: what is known nevertheless, and what to do.
    """
    return LaunchError(Fault(command, f"SLURM is out of reach: {reason(stderr)}", known))


def scancel(*arguments: str) -> None:
    """Call scancel; a job that it does not know, or that is ending already, is no fault.

    Raises:
        LaunchError: SLURM is out of reach, or refuses.
    """
    done = call("scancel", *arguments)
    if is_away(done):
        raise out_of_reach("scancel", done.stderr, "`scontrol ping` says when it is up")
    if done.returncode and not re.search("Invalid job id|already completing or completed", done.stderr):
        problem = f"{reason(done.stderr)}; the job may still run"
        raise LaunchError(Fault(f"scancel {' '.join(arguments)}", problem, "try again"))


def without_options() -> dict[str, str]:
    """This process' environment without the tools' options."""
    return {name: value for name, value in os.environ.items() if not _is_option(name)}


@contextmanager
def clean_environment() -> Iterator[None]:
    """This process' environment without the tools' options, for submitit, which hands it to sbatch as it is."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if _is_option(name)}
    try:
        yield
    finally:
        os.environ.update(taken)


def _is_option(variable: str) -> bool:
    """Whether the tools take this variable for an option, which would outrank the script and narrow what they show."""
    return variable.startswith(_OPTIONS_BY_ENVIRONMENT) and variable not in _SITE
