"""What would keep a submission from running on a Ray cluster, as a job that looks at it from one of its nodes finds."""

import json
import platform
import secrets
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError, PreflightError
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.ray.client import connected, dashboard, first_line, hand_over
from gmml_cluster.launch.ray.requests import MARK, look_request, marker, rank_resources, section
from gmml_cluster.launch.ray.room import asked_for, ranks_held

if TYPE_CHECKING:
    from gmml_cluster.spec.cluster import RaySection

LOOK_S = 300.0
"""How long a look may take where the profile's `start` is shorter: it waits for the same environment or image."""
_POLL_S = 0.5
_ENDS = ("SUCCEEDED", "FAILED", "STOPPED")
_LOOKS = "gmml-look-"
_KEPT_MS = 600_000
"""How long a look stays in Ray's list of jobs at least: whoever submitted it reads its output there."""


def faults_of(submission: Submission) -> list[Fault]:
    """All that is wrong.

    Raises:
        LaunchError: the cluster is out of reach.
    """
    try:
        return _faults_of(submission, section(submission.profile))
    except PreflightError as error:
        return error.faults


def _faults_of(submission: Submission, ray: "RaySection") -> list[Fault]:
    address, limit_s = dashboard(ray.address), max(LOOK_S, ray.start)
    token = f"look-{secrets.token_hex(8)}"
    try:
        with tempfile.TemporaryDirectory() as folder, _marked(submission.root, token):
            code = Path(folder) / submission.code.file_name
            code.write_bytes(submission.code.data)
            with connected(address) as client:
                _remove_earlier(client)
                printed, message = _looked(client, look_request(submission, token, str(code)), address, limit_s)
    except OSError as error:
        return [Fault(submission.root, f"{error.strerror}", "name a folder that can be written as `root`")]
    line = next((line for line in printed.splitlines() if line.startswith(MARK)), None)
    if line is None:
        # a runtime environment that cannot be made is in Ray's message alone: nothing was there to print
        last = next(reversed([*message.strip().splitlines(), *printed.strip().splitlines()]), "it printed nothing")
        problem = f"a job with the submitted code and environment failed there: {last}"
        return [Fault(address, problem, "the nodes, or what ray.runtime_env makes, need gmml-cluster[train,ray]")]
    return [*judged(json.loads(line.removeprefix(MARK)), submission)]


def judged(found: dict[str, Any], submission: Submission) -> Iterator[Fault]:
    """What is wrong with what the look found."""
    yield from _version_faults("Ray", version("ray"), found["ray"])
    yield from _version_faults("Python", platform.python_version(), found["python"])
    yield from _resource_faults(found["ranks"], submission)
    yield from (Fault(*fault) for fault in found["faults"])


def _version_faults(what: str, here: str, there: str) -> Iterator[Fault]:
    if here.split(".")[:2] != there.split(".")[:2]:
        problem = f"{what} is {there} on the cluster and {here} here"
        yield Fault("ray.address", problem, f"submit from an environment with {what} {there}")


def _resource_faults(ranks: list[int], submission: Submission) -> Iterator[Fault]:
    """Whether the nodes that are there can hold the fewest ranks, were they free."""
    plan, ray = submission.plan, section(submission.profile)
    least, held = plan.nodes[0] * plan.ranks_per_node, ranks_held(ranks, ray.placement)
    if ray.autoscales or held >= least:
        return
    strict = f" by {ray.placement}" if ray.placement.startswith("STRICT") else ""
    asked = asked_for(least, rank_resources(submission), ray.labels)
    problem = f"{asked} at least; the cluster can never hold more than {held}{strict}"
    yield Fault("resources.nodes", problem, "ask for fewer, add nodes, or set ray.autoscales if the cluster adds them")


@contextmanager
def _marked(root: str, token: str) -> Iterator[None]:
    """A file under a root that is a folder, or under the nearest folder above it that exists, while the look lasts."""
    if "://" in root:
        yield
        return
    folder = next(each for each in (Path(root), *Path(root).parents) if each.is_dir())
    file = marker(folder, token)
    file.touch()
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _looked(client: Any, request: dict[str, Any], address: str, limit_s: float) -> tuple[str, str]:
    """What the job printed, and what Ray says of its end.

    Raises:
        PreflightError: Ray does not take the runtime environment.
        LaunchError: it did not end in time.
    """
    job = request["submission_id"]
    try:
        hand_over(client, request)
    except RuntimeError as error:
        raise LaunchError(Fault(address, f"refused: {first_line(error)}", "remove the reason, submit again")) from error
    try:
        deadline = time.monotonic() + limit_s
        while str(client.get_job_status(job).value) not in _ENDS:
            if time.monotonic() > deadline:
                problem = f"a job that looks at the cluster has not ended within {limit_s:g} s"
                hint = "see the dashboard for what its nodes are doing, or give ray.start more time"
                raise LaunchError(Fault(address, problem, hint))
            time.sleep(_POLL_S)
        return str(client.get_job_logs(job)), str(client.get_job_info(job).message or "")
    finally:
        with suppress(RuntimeError):
            client.stop_job(job)


def _remove_earlier(client: Any) -> None:
    """Remove from Ray's list of jobs the looks of earlier submissions.

    None is removed at its own end: Ray 2.60 watches a job for a second longer, and one that was removed within that
    second stands in the list from then on, as FAILED.
    """
    now = time.time() * 1000
    for each in client.list_jobs():
        job, ended = each.submission_id or "", each.end_time
        if job.startswith(_LOOKS) and ended is not None and now - ended > _KEPT_MS:
            with suppress(RuntimeError):  # another submission removes it
                client.delete_job(job)
