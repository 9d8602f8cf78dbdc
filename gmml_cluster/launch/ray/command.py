"""A command of ours as a job of a Ray cluster, followed from here: `gmml corpus` and `gmml eval` with `--cluster`."""

import asyncio
import hashlib
import json
import logging
import shlex
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch.ray.client import authentication, connected, dashboard, hand_over
from gmml_cluster.launch.ray.marks import MarkedOutput
from gmml_cluster.launch.snapshot import Snapshot

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from gmml_cluster.spec.cluster import ClusterProfile, RaySection

_ALIVE = ("PENDING", "RUNNING")
_SILENCE_S = 60.0
"""How long a job may print nothing before its head is asked whether it is there: Ray's client waits for ever."""


@dataclass(frozen=True)
class Command:
    """What is run there.

    Attributes:
        name: of the kind, part of the job's id.
        words: after `python -u -m`; each line that they print has a mark of `launch.ray.marks`.
        code: the packages that run.
        options: further arguments of `submit_job`, such as the resources of the process.
        cure: what a person does where the job was lost.
    """

    name: str
    words: Sequence[str]
    code: Snapshot
    options: dict[str, Any] = field(default_factory=dict)
    cure: str = "repeat the command"


def follow(profile: "ClusterProfile", ray: "RaySection", command: Command) -> int:
    """Run the command as a job of the profile's cluster and show what it prints; its exit code.

    The same command finds its job again while that runs. A Ctrl-C here ends the following alone.

    Raises:
        PreflightError: Ray does not take the profile's runtime environment.
        LaunchError: the cluster is out of reach, or the job was lost.
    """
    address = dashboard(ray.address)
    with connected(address) as client:
        # set here, for its import sets it anew; it says how its connection ends
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        job = _submitted(client, profile, ray, command)
        try:
            heard = asyncio.run(_show(client, job))
        except KeyboardInterrupt:
            stop = f"ray job stop --address {address} {job}"
            print(f"job {job} goes on; repeat the command to follow it, or end it: {stop}", file=sys.stderr)
            raise
        while (status := str((found := client.get_job_info(job)).status.value)) in _ALIVE:
            time.sleep(1.0)  # its output ends a little before it
    if status == "SUCCEEDED":
        return 0
    if found.driver_exit_code and heard:
        return int(found.driver_exit_code)
    # a command that could not even start, as for a package that the node lacks, left its reason to Ray's message
    said = (found.message or "no message").strip().splitlines()
    message = said[-1] if found.driver_exit_code else said[0]
    raise LaunchError(Fault(address, f"the job {job} ended as {status} ({message})", command.cure))


def _submitted(client: "JobSubmissionClient", profile: "ClusterProfile", ray: "RaySection", command: Command) -> str:
    """The job of this command that runs, or a new one: Ray never takes an id again."""
    digest = hashlib.sha256(json.dumps([command.code.digest, *command.words]).encode()).hexdigest()[:12]
    known = {each.submission_id: str(each.status.value) for each in client.list_jobs()}
    number = 0
    while (job := f"gmml-{command.name}-{digest}-{number}") in known:
        if known[job] in _ALIVE:
            return job
        number += 1
    variables = {**authentication(), **profile.environment}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, command.code.file_name)
        path.write_bytes(command.code.data)
        request = {
            "entrypoint": shlex.join(["python", "-u", "-m", *command.words]),
            "submission_id": job,
            "runtime_env": {**ray.runtime_env, "working_dir": str(path), "env_vars": variables},
            **command.options,
        }
        hand_over(client, request)
    return job


async def _show(client: "JobSubmissionClient", job: str) -> bool:
    """Show what the job prints; whether any of it was ours."""
    with ExitStack() as bars:
        shown = MarkedOutput(bars)
        rest = ""
        async for text in _heard(client.tail_job_logs(job), lambda: client.get_job_info(job)):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                shown.line(line)
        shown.line(rest)
    return shown.any


async def _heard(printed: AsyncIterator[str], ask: Callable[[], object]) -> AsyncIterator[str]:
    """What is printed; raises as `ask` does where nothing is and the head no longer answers."""
    while True:
        following = asyncio.ensure_future(anext(printed, None))
        while not (await asyncio.wait([following], timeout=_SILENCE_S))[0]:
            ask()
        text = following.result()
        if text is None:
            return
        yield text
