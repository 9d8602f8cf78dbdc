"""The launcher for Ray clusters: the job API carries the driver, Ray Train places its workers.

Whatever needs pydantic or ray is imported where it is used: `gmml status` polls with this module.
"""

import json
import logging
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch.protocol import JobReport, Submission, one_by_one
from gmml_cluster.launch.ray.client import RayJob, connected, dashboard, first_line, report_of
from gmml_cluster.launch.ray.requests import job_request, section
from gmml_cluster.launch.ray.turns import waits
from gmml_cluster.launch.ray.waiting import waits_for_room

if TYPE_CHECKING:
    from gmml_cluster.plan.machine import Machine
    from gmml_cluster.spec.cluster import ClusterProfile

_POLL_ANSWER_S = 60.0
"""How long a listing waits for a head that accepts its connection and is silent, as one that hangs is."""

_log = logging.getLogger(__name__)


class RayLauncher:
    """Runs on the Ray cluster whose dashboard the profile names."""

    def node(self, profile: "ClusterProfile") -> "Machine":
        """A node as the profile says."""
        from gmml_cluster.plan.machine import RANKS_WITHOUT_GPU, Machine

        ray = section(profile)
        ranks = ray.gpus_per_node or RANKS_WITHOUT_GPU
        return Machine(ranks * ray.cpus_per_rank, ray.gpus_per_node, ray.memory_per_node, ray.gpu_memory)

    def environment(self, profile: "ClusterProfile", ranks_per_node: int) -> dict[str, str]:
        """The profile's variables alone."""
        return profile.variables

    def preflight(self, submission: Submission) -> list[Fault]:
        """Cluster, versions and resources, as the job API and a look into the cluster show them."""
        from gmml_cluster.launch.ray.preflight import faults_of

        return faults_of(submission)

    def script(self, submission: Submission) -> str:
        """The driver's command and the job's runtime environment, the token shown as `<token>`."""
        address = section(submission.profile).address
        with suppress(LaunchError):  # a cluster that is looked for and not there is the preflight's to report
            address = dashboard(address)
        request = job_request(submission, RayJob(address, "<token>"), "<code>.zip")
        return json.dumps(request, indent=2) + "\n"

    def bounds(self, submission: Submission) -> dict[str, Any]:
        """Nothing: the job's id says where it is."""
        return {}

    def submit(self, submission: Submission) -> str:
        """Hand the driver over, under the token as its id, so that a repeated request starts nothing twice."""
        job = RayJob(dashboard(section(submission.profile).address), submission.token)
        with tempfile.TemporaryDirectory() as folder:
            code = Path(folder) / submission.code.file_name
            code.write_bytes(submission.code.data)
            with connected(job.address) as client:
                try:
                    client.submit_job(**job_request(submission, job, str(code)))
                except RuntimeError as error:
                    if not _is_known(client, job):  # the answer was lost, or an earlier request's job stands
                        problem = f"refused: {first_line(error)}; nothing was submitted"
                        raise LaunchError(Fault(job.address, problem, "remove the reason and submit again")) from error
        return str(job)

    def submit_all(self, submissions: Sequence[Submission]) -> list[str | LaunchError]:
        """A job each; drivers that have to wait for others place no ranks before."""
        return one_by_one(self.submit, submissions)

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        """Reports by one listing of a cluster's jobs; a job that it does not list is gone with an earlier head.

        A run whose ranks find no room is queued, as on SLURM, though its driver runs.
        """
        by_address = defaultdict(list)
        for job in map(RayJob.read, jobs):
            by_address[job.address].append(job)
        reports: dict[str, JobReport] = {}
        for address, asked in by_address.items():
            try:
                with connected(address, _POLL_ANSWER_S) as client:
                    listed = client.list_jobs()
                    named = {job.submission for job in asked}
                    without_room = waits_for_room(client, [each for each in listed if each.submission_id in named])
                reports |= {str(job): _report(job.submission, listed, without_room) for job in asked}
            except LaunchError as error:
                _log.warning("%s", error)
                reports |= {str(job): JobReport("unknown") for job in asked}
        return reports

    def give_notice(self, job: str) -> None:
        """Nothing to be done: the ranks read a person's stop from the log within seconds."""

    def cancel(self, job: str) -> None:
        """Ask Ray to end the driver; does nothing for a job that it does not know."""
        asked = RayJob.read(job)
        with connected(asked.address) as client, suppress(RuntimeError):
            client.stop_job(asked.submission)

    def output(self, job: str, bounds: Mapping[str, Any], *, restart: int | None, rank: int) -> None:
        """None: what ranks print lies on the cluster's nodes; they upload their logs to the run root."""

    def worker(self, root: str, name: str) -> None:
        """None: the ranks are on the cluster's nodes."""

    def forget(self, root: str, name: str) -> None:
        """Nothing is kept here."""


def _report(job: str, listed: Sequence[Any], without_room: Mapping[str, str]) -> JobReport:
    """How a job is; one whose driver waits for others of its sweep, or for room, is queued."""
    mine = next((details for details in listed if details.submission_id == job), None)
    if mine is None:
        return JobReport("gone")
    report = report_of(mine)
    if report.state != "running":
        return report
    reason = waits(job, listed) or without_room.get(job)
    return report if reason is None else JobReport("queued", reason)


def _is_known(client: Any, job: RayJob) -> bool:
    with suppress(RuntimeError):
        return client.get_job_info(job.submission) is not None
    return False
