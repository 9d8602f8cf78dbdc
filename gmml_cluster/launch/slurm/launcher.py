"""The SLURM launcher: submitit carries the job, squeue tells its state, `sbatch --test-only` judges it beforehand."""

import logging
import math
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError, PreflightError
from gmml_cluster.launch.protocol import JobReport, JobState, Submission
from gmml_cluster.launch.slurm.errors import reason, refusal
from gmml_cluster.launch.slurm.logs import error_file

if TYPE_CHECKING:
    from subprocess import CompletedProcess

    from gmml_cluster.spec.cluster import ClusterProfile

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
_WORD = re.compile(r"(\w+)=(\S*)")

_log = logging.getLogger(__name__)


class SlurmLauncher:
    """Runs on the SLURM cluster that the tools on PATH speak to."""

    def node(self, profile: "ClusterProfile") -> None:
        """Not known here: the profile's own fields say what a node has."""

    def environment(self, profile: "ClusterProfile", ranks_per_node: int) -> dict[str, str]:
        """The profile's variables alone."""
        return dict(profile.environment)

    def preflight(self, submission: Submission) -> list[Fault]:
        """Tools, folder, options and secrets; then SLURM's own judgement of the very script."""
        from gmml_cluster.launch.slurm import batch

        missing = [tool for tool in TOOLS if shutil.which(tool) is None]
        if missing:
            told = f"{', '.join(missing)} not found on PATH; jobs are handed over with them; go to a login node"
            return [Fault("SLURM", told)]
        try:
            folder = batch.shared_folder(submission)
        except PreflightError as error:
            return error.faults
        own = [*batch.refused_options(submission), *_folder_faults(folder), *_secret_faults(submission)]
        own += _python_faults(submission)
        self._note_kill_wait()
        return own or _judged(batch.text(submission), submission) or [*_limit_faults(submission)]

    def script(self, submission: Submission) -> str:
        """The batch script that `submit` uses, the token shown as `<token>`."""
        from gmml_cluster.launch.slurm import batch

        return batch.shown(submission)

    def bounds(self, submission: Submission) -> dict[str, str]:
        """The folder of each job's script and logs, for whoever reads them without the profile."""
        from gmml_cluster.launch.slurm import batch

        return {"folder": str(batch.job_folder(submission))}

    def submit(self, submission: Submission) -> str:
        """Write the code where all nodes see it, hand the script to sbatch, and return the job's number."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from gmml_cluster.launch.slurm import batch, entry

        archive = batch.archive(submission)
        _write_once(archive, submission.code.data)
        told = (str(archive), submission.code.digest, submission.root, submission.name, submission.token)
        try:
            with _clean_environment():
                job = batch.executor(submission).submit(entry.main, *told)
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            raise LaunchError(
                f"sbatch: {reason(str(error))}; nothing was submitted; mend it and submit again"
            ) from error
        return str(job.job_id)

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        """States by one squeue; where it fails, ended jobs by sacct if there is one; else unknown."""
        if not jobs:
            return {}
        done = _call("squeue", "-h", "-t", "all", "-j", ",".join(jobs), "-o", "%i|%T|%j")
        if done.returncode == 0:
            return _reports(states(done.stdout, jobs))
        if "Invalid job id" in done.stderr:
            return _reports(states("", jobs))
        _log.warning("squeue: %s; what is not known to be gone is shown as it was last", reason(done.stderr))
        return _reports(self._poll_accounting(jobs))

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

    def output(self, job: str, bounds: Mapping[str, Any], *, restart: int | None, rank: int) -> Path | None:
        """The rank's error file, for the latest start; it holds all starts, so none is that of a given one."""
        return error_file(bounds, job, rank) if restart is None else None

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
        told = reason(done.stderr)
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


def _reports(told: Mapping[str, JobState]) -> dict[str, JobReport]:
    return {job: JobReport(state) for job, state in told.items()}


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


def _limit_faults(submission: Submission) -> Iterable[Fault]:
    """What a site may let wait for ever instead of refusing it: more time or nodes than any partition asked for."""
    asked = (submission.profile.slurm.partition or "").split(",")
    shown = [dict(_WORD.findall(line)) for line in _call("scontrol", "-o", "show", "partition").stdout.splitlines()]
    mine = [
        one for one in shown if one.get("PartitionName") in asked or (asked == [""] and one.get("Default") == "YES")
    ]
    minutes, nodes = math.ceil(submission.profile.slurm.time / 60), submission.plan.node_range.least
    for field, name, value, told in (
        ("slurm.time", "MaxTime", minutes, f"{minutes} min"),
        ("resources.nodes", "MaxNodes", nodes, f"{nodes} nodes"),
    ):
        if mine and value > max(limit(one.get(name, "")) for one in mine):
            most = ", ".join(f"{one['PartitionName']}: {name}={one[name]}" for one in mine)
            yield Fault(field, f"{told} would wait for ever; the partition's limit is {most}; ask for less")


def limit(told: str) -> float:
    """A number, or minutes of a time as SLURM writes it, `D-HH:MM:SS` or `HH:MM:SS`; infinite for any other word."""
    if told.isdigit():
        return int(told)
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", told)
    if found is None:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return days * 1440 + hours * 60 + minutes + seconds / 60


def _folder_faults(folder: Path) -> Iterable[Fault]:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        told = f"{there} is not a folder you can write to; job scripts and logs lie there; choose another"
        yield Fault("slurm.folder", told)


def _python_faults(submission: Submission) -> Iterable[Fault]:
    """Whether the job's Python runs what restarts depend on; one that only the nodes have is not tried."""
    python = submission.profile.slurm.python
    if python is None:
        return
    if submission.profile.slurm.setup or shutil.which(shlex.split(python)[0]) is None:
        _log.warning("slurm.python: %r is found on the nodes alone; whether a job can come back is not tried", python)
        return
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / submission.code.file_name
        archive.write_bytes(submission.code.data)
        path = ["env", "PYTHONSAFEPATH=1", f"PYTHONPATH={archive}"]
        done = _call(*path, "sh", "-c", f"{python} -m gmml_cluster.launch.restart --help")
    if done.returncode:
        told = (done.stderr.strip().splitlines() or [f"code {done.returncode}"])[-1]
        yield Fault(
            "slurm.python", f"{python!r} cannot run gmml_cluster.launch.restart: {told}; name another, or mend it"
        )


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
