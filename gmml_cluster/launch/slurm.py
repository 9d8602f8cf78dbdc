"""The SLURM launcher: submitit carries the job, squeue tells its state, `sbatch --test-only` judges it beforehand."""

import logging
import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gmml_cluster.errors import Fault, LaunchError, PreflightError
from gmml_cluster.launch.launcher import JobState, Submission

if TYPE_CHECKING:
    from subprocess import CompletedProcess

TOOLS = ("sbatch", "scancel", "scontrol", "squeue", "srun")
LEAVE_S = 10
_TOOL_LIMIT_S = 30
_OPTIONS_BY_ENVIRONMENT = ("SACCT_", "SBATCH_", "SCANCEL_", "SCONTROL_", "SLURM_", "SQUEUE_")
_SITE = ("SLURM_CLUSTERS", "SLURM_CONF", "SLURM_JWT")

_QUEUED = frozenset(
    ["CONFIGURING", "PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "RESV_DEL_HOLD", "SPECIAL_EXIT"]
)
_RUNNING = frozenset(["COMPLETING", "RESIZING", "RUNNING", "SIGNALING", "STAGE_OUT", "STOPPED", "SUSPENDED"])
_GONE = frozenset(
    [
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "LAUNCH_FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "RECONFIG_FAIL",
        "REVOKED",
        "TIMEOUT",
    ]
)
_CURES = {
    "account": ("slurm.account", "`sacctmgr show associations user=$USER` lists yours"),
    "partition": ("slurm.partition", "`sinfo -s` lists them"),
    "qos": ("slurm.qos", "`sacctmgr show qos` lists them"),
    "feature": ("slurm.constraint", "`sinfo -o '%N %f'` lists the nodes' features"),
    "time limit": ("slurm.time", "`sinfo -o '%P %l'` lists the limits"),
    "node": ("resources.nodes", "`sinfo -N -l` lists nodes, CPUs and memory; ask for less"),
    "memory": ("slurm.memory_per_node", "`sinfo -o '%N %m'` lists it"),
}

_PREAMBLE = re.compile(r"((sbatch|scancel): )?(error: )?(allocation failure: |Batch job submission failed: )?")

_log = logging.getLogger(__name__)


class SlurmLauncher:
    """Runs on the SLURM cluster that the tools on PATH speak to."""

    def preflight(self, submission: Submission) -> list[Fault]:
        """Tools, folder, options and secrets; then SLURM's own judgement of the very script."""
        from gmml_cluster.launch import batch

        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            told = f"{', '.join(missing)} not found on PATH; jobs are handed over with them; go to a login node"
            return [Fault("SLURM", told)]
        try:
            folder = batch.shared_folder(submission)
        except PreflightError as error:
            return error.faults
        own = [*batch.refused_options(submission), *_folder_faults(folder), *_secret_faults(submission)]
        self._note_kill_wait()
        return own or _judged(batch.text(submission), submission)

    def script(self, submission: Submission) -> str:
        """The batch script that `submit` uses, the token shown as `<token>`."""
        from gmml_cluster.launch import batch

        return batch.shown(submission)

    def submit(self, submission: Submission) -> str:
        """Write the code where all nodes see it, hand the script to sbatch, and return the job's number."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from gmml_cluster.launch import batch, carrier

        archive = batch.archive(submission)
        _write_once(archive, submission.code.data)
        told = (str(archive), submission.code.digest, submission.root, submission.name, submission.token)
        try:
            with _clean_environment():
                job = batch.executor(submission).submit(carrier.main, *told)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise LaunchError(
                f"sbatch: {_reason(str(error))}; nothing was submitted; mend it and submit again"
            ) from error
        return str(job.job_id)

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        """States by one squeue; where it fails, ended jobs by sacct if there is one; else unknown."""
        if not jobs:
            return {}
        done = _call("squeue", "-h", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%T|%j")
        if done.returncode == 0:
            return states(done.stdout, jobs)
        if "Invalid job id" in done.stderr:
            return states("", jobs)
        _log.warning("squeue: %s; what is not known to be gone is shown as it was last", _reason(done.stderr))
        return self._poll_accounting(jobs)

    def _poll_accounting(self, jobs: Mapping[str, str]) -> dict[str, JobState]:
        done = _call("sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State,JobName")
        told = states(done.stdout, jobs) if done.returncode == 0 else {}
        listed = {line.split("|")[0] for line in done.stdout.splitlines()}
        return {job: "gone" if told.get(job) == "gone" and job in listed else "unknown" for job in jobs}

    def notify(self, job: str) -> None:
        """Signal the ranks alone: a plain scancel would give them KillWait for their save."""
        _scancel("--signal=USR2", job)

    def cancel(self, job: str) -> None:
        """Ask SLURM to end the job; a job it no longer knows is left in peace."""
        _scancel(job)

    def _note_kill_wait(self) -> None:
        found = re.search(r"^KillWait\s*=\s*(\d+)", _call("scontrol", "show", "config").stdout, re.MULTILINE)
        if found and int(found[1]) <= LEAVE_S:
            _log.warning(
                "SLURM: KillWait is %s s; ranks leave within %d s of the first, and a preemption without grace leaves "
                "no more than KillWait for saving; ask the site for 30",
                *(found[1], LEAVE_S),
            )


def _scancel(*words: str) -> None:
    done = _call("scancel", *words)
    if done.returncode and not re.search("Invalid job id|already completing or completed", done.stderr):
        told = _reason(done.stderr)
        raise LaunchError(f"scancel {' '.join(words)}: {told}; the job may still run; try again")


def states(listing: str, jobs: Mapping[str, str]) -> dict[str, JobState]:
    """States of jobs from lines `id|STATE|name`; what is not listed, or bears another run's name, is gone.

    A state that this table does not know is `unknown`.
    """
    rows = {row[0]: row[1:] for row in (line.split("|", 2) for line in listing.splitlines()) if len(row) == 3}
    return {
        job: _state(rows[job][0]) if job in rows and rows[job][1].strip() == name else "gone"
        for job, name in jobs.items()
    }


def _state(word: str) -> JobState:
    first = word.strip().split(" ")[0]
    if first in _QUEUED:
        return "queued"
    if first in _RUNNING:
        return "running"
    return "gone" if first in _GONE else "unknown"


def _call(*command: str, text: str | None = None) -> "CompletedProcess[str]":
    """Run a tool; one that is absent or does not answer in time has failed with code 127 or 124."""
    try:
        return subprocess.run(
            command,
            input=text,
            env={name: value for name, value in os.environ.items() if not _is_option(name)},
            capture_output=True,
            text=True,
            check=False,
            timeout=_TOOL_LIMIT_S,
            errors="replace",
        )
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", str(error))
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 124, "", f"no answer in {_TOOL_LIMIT_S} s")


def _is_option(variable: str) -> bool:
    """Whether the tools take this variable for an option, which would outrank the script and narrow what they show."""
    return variable.startswith(_OPTIONS_BY_ENVIRONMENT) and variable not in _SITE


@contextmanager
def _clean_environment() -> Iterator[None]:
    """This process' environment without the tools' options, for submitit, which hands it to sbatch as it is."""
    taken = {name: os.environ.pop(name) for name in list(os.environ) if _is_option(name)}
    try:
        yield
    finally:
        os.environ.update(taken)


def _judged(script: str, submission: Submission) -> list[Fault]:
    done = _call("sbatch", "--test-only", text=script)
    return [] if done.returncode == 0 else [refusal(done.stderr, submission)]


def refusal(told: str, submission: Submission) -> Fault:
    """SLURM's own reason as a sentence that names the field at fault and where to look."""
    reason = _reason(told)
    known = ((field, cure) for word, (field, cure) in _CURES.items() if word in reason.lower())
    field, cure = next(known, ("SLURM", "ask the site, or try `sbatch --test-only` by hand"))
    value = _value(field, submission)
    return Fault(field, f"{value}refused by SLURM: {reason}; {cure}")


def _value(field: str, submission: Submission) -> str:
    if field == "resources.nodes":
        return f"{submission.nodes.least}..{submission.nodes.most} of {submission.ranks_per_node} ranks "
    given = getattr(submission.profile.slurm, field.removeprefix("slurm."), None)
    return "" if given is None else f"{given!r} "


def _reason(told: str) -> str:
    """The last line in which a SLURM tool says what is wrong, without its own name and preamble."""
    lines = [line for line in told.splitlines() if re.search("error|fail", line, re.IGNORECASE)] or told.splitlines()
    last = lines[-1].strip() if lines else "no reason given"
    return _PREAMBLE.sub("", last, count=1) or last


def _folder_faults(folder: Path) -> Iterable[Fault]:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        told = f"{there} is not a folder you can write to; job scripts and logs lie there; choose another"
        yield Fault("slurm.folder", told)


def _secret_faults(submission: Submission) -> Iterable[Fault]:
    for name in submission.profile.secrets:
        if name not in os.environ:
            yield Fault(
                "secrets", f"{name} is not set in this shell; the ranks would lack it; export it and submit again"
            )


def _write_once(path: Path, data: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.rename(path)
