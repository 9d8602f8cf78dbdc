"""The SLURM launcher: submitit carries the job, squeue reports its state, `sbatch --test-only` judges it beforehand.

Whatever needs pydantic or submitit is imported where it is used: `gmml status` polls with this module.
"""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch.protocol import JobReport, Submission
from gmml_cluster.launch.slurm.errors import reason
from gmml_cluster.launch.slurm.logs import error_file
from gmml_cluster.launch.slurm.states import FORMAT, accounted, reports
from gmml_cluster.launch.slurm.tools import call, clean_environment, scancel

if TYPE_CHECKING:
    from gmml_cluster.spec.cluster import ClusterProfile

_log = logging.getLogger(__name__)


class SlurmLauncher:
    """Runs on the SLURM cluster that the tools on PATH reach."""

    def node(self, profile: "ClusterProfile") -> None:
        """Not known here: the profile's own fields say what a node has."""

    def environment(self, profile: "ClusterProfile", ranks_per_node: int) -> dict[str, str]:
        """The profile's variables alone."""
        return profile.variables

    def preflight(self, submission: Submission) -> list[Fault]:
        """Tools, folder, options, secrets and Python; then SLURM's own judgement of the very script."""
        from gmml_cluster.launch.slurm.preflight import faults_of

        return faults_of(submission)

    def script(self, submission: Submission) -> str:
        """The batch script that `submit` uses, the token shown as `<token>`."""
        from gmml_cluster.launch.slurm import batch

        return batch.shown(submission)

    def bounds(self, submission: Submission) -> dict[str, Any]:
        """For readers that do not have the profile: folder of each job's script and logs, notices, whether it requeues.

        Seconds of notice are at least so many, from the signal to the kill.
        """
        from gmml_cluster.launch.slurm.folders import job_folder
        from gmml_cluster.launch.slurm.options import may_requeue
        from gmml_cluster.launch.slurm.site import notices

        requeue = {} if may_requeue(submission) else {"requeue": False}
        return {"folder": str(job_folder(submission)), "notices": notices(submission.profile.slurm), **requeue}

    def submit(self, submission: Submission) -> str:
        """Write the code where all nodes see it, hand the script to sbatch, and return the job's number."""
        return self._submitted([submission])[0]

    def submit_all(self, submissions: Sequence[Submission]) -> list[str | LaunchError]:
        """One array, of which so many tasks run at once as are asked for; one for each size, where sizes differ."""
        from gmml_cluster.launch.slurm import batch

        taken: dict[str, str | LaunchError] = {}
        for group in batch.arrays(submissions):
            try:
                taken |= zip((each.token for each in group), self._submitted(group), strict=True)
            except LaunchError as error:
                taken |= dict.fromkeys((each.token for each in group), error)
        return [taken[each.token] for each in submissions]

    def _submitted(self, submissions: Sequence[Submission]) -> list[str]:
        """The number of the job, or `ARRAY_TASK` of each."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from gmml_cluster.launch.slurm import batch, entry, folders

        code = submissions[0].code
        archive = folders.archive(submissions[0])
        _write_once(archive, code.data)
        try:
            with clean_environment():
                executor = batch.executor(*submissions)
                with executor.batch():
                    jobs = [
                        executor.submit(
                            entry.main, str(archive), code.digest, each.root, each.name, each.token, each.module
                        )
                        for each in submissions
                    ]
        except (FailedJobError, FailedSubmissionError, OSError) as error:
            problem = f"{reason(str(error))}; nothing was submitted"
            raise LaunchError(Fault("sbatch", problem, "remove the reason and submit again")) from error
        finally:
            for each in submissions:
                folders.clean(each)
        return [str(job.job_id) for job in jobs]

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        """Reports by one squeue; where it fails, ended jobs by sacct if there is one; else unknown."""
        if not jobs:
            return {}
        done = call("squeue", "-h", "-r", "-t", "all", "-j", ",".join(jobs), "-o", FORMAT)
        if done.returncode == 0:
            return reports(done.stdout, jobs)
        if "Invalid job id" in done.stderr:  # of a single id; squeue 22.05 skips unknown ones in a list
            return reports("", jobs)
        _log.warning("squeue: %s; what is not known to be gone is shown as it was last", reason(done.stderr))
        asked = call("sacct", "-n", "-P", "-X", "-j", ",".join(jobs), "-o", "JobID,State,JobName")
        return accounted(asked.stdout if asked.returncode == 0 else "", jobs)

    def give_notice(self, job: str) -> None:
        """Signal the ranks alone: a plain scancel would give them KillWait for their save."""
        scancel("--signal=USR2", job)

    def cancel(self, job: str) -> None:
        """Ask SLURM to end the job; does nothing for one that it no longer knows."""
        scancel(job)

    def output(self, job: str, bounds: Mapping[str, Any], *, restart: int | None, rank: int) -> Path | None:
        """The rank's error file, for the latest start; it holds all starts, so none is that of a given one."""
        return error_file(bounds, job, rank) if restart is None else None

    def worker(self, root: str, name: str) -> None:
        """None: the ranks are on the nodes."""

    def forget(self, root: str, name: str) -> None:
        """Nothing is kept here: scripts and logs lie in the folder that the `submit` entry names."""


def _write_once(path: Path, data: bytes) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_bytes(data)
    aside.rename(path)
