"""`gmml corpus ... --cluster NAME` on a Ray cluster: the same command is its job there, and is followed from here.

Its lines come back by the job's output, each with a mark, as Ray writes lines of its own between them.
"""

import asyncio
import hashlib
import io
import json
import logging
import os
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gmml_cluster
from gmml_cluster.errors import Fault, LaunchError, SpecError
from gmml_cluster.launch.ray.client import connected
from gmml_cluster.launch.snapshot import Snapshot, take
from gmml_cluster.progress import LINES, progress

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

    from gmml_cluster.spec.cluster import ClusterProfile

OUT, ERR, PROGRESS = "gmml:out ", "gmml:err ", LINES
_MODULE = "gmml_cluster.cli.on_ray"
_ALIVE = ("PENDING", "RUNNING")


def follow_on_ray(profile: "ClusterProfile", words: Sequence[str]) -> int:
    """Run a command of ours as a job of the profile's Ray cluster and show what it prints; its exit code.

    The same command finds its job again while that runs. A Ctrl-C here ends the following alone.

    Raises:
        SpecError: the profile is no Ray cluster.
        LaunchError: the cluster is out of reach, or the job was lost.
    """
    if profile.ray is None:
        raise SpecError(
            Fault("--cluster", f"launcher {profile.launcher}; corpora are made here or on Ray", "leave it out")
        )
    code = take(Path(gmml_cluster.__file__).parent)
    with connected(profile.ray.address) as client:
        # set here, for its import sets it anew; it says how its connection ends
        logging.getLogger("ray.dashboard.modules.job.sdk").setLevel(logging.WARNING)
        job = _submitted(client, profile, words, code)
        try:
            asyncio.run(_show(client, job))
        except KeyboardInterrupt:
            stop = f"ray job stop --address {profile.ray.address} {job}"
            print(f"job {job} goes on; repeat the command to follow it, or end it: {stop}", file=sys.stderr)
            raise
        while (status := str((found := client.get_job_info(job)).status.value)) in _ALIVE:
            time.sleep(1.0)  # its output ends a little before it
    if status == "SUCCEEDED":
        return 0
    if found.driver_exit_code:
        return int(found.driver_exit_code)
    problem = (
        f"the job {job} ended as {status} ({next(iter((found.message or '').strip().splitlines()), 'no message')})"
    )
    raise LaunchError(Fault(profile.ray.address, problem, "what is done is kept: repeat the command"))


def _submitted(client: "JobSubmissionClient", profile: "ClusterProfile", words: Sequence[str], code: Snapshot) -> str:
    """The job of this command that runs, or a new one: Ray never takes an id again."""
    assert profile.ray is not None
    digest = hashlib.sha256(json.dumps([code.digest, *words]).encode()).hexdigest()[:12]
    known = {each.submission_id: str(each.status.value) for each in client.list_jobs()}
    number = 0
    while (job := f"gmml-corpus-{digest}-{number}") in known:
        if known[job] in _ALIVE:
            return job
        number += 1
    labels = ["--labels", json.dumps(profile.ray.labels)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, code.file_name)
        path.write_bytes(code.data)
        client.submit_job(
            entrypoint=shlex.join(["python", "-u", "-m", _MODULE, *labels, *words]),
            submission_id=job,
            runtime_env={**profile.ray.runtime_env, "working_dir": str(path), "env_vars": dict(profile.environment)},
        )
    return job


async def _show(client: "JobSubmissionClient", job: str) -> None:
    with ExitStack() as bars:
        shown = _Shown(bars)
        rest = ""
        async for text in client.tail_job_logs(job):
            *lines, rest = (rest + text).split("\n")
            for line in lines:
                shown.line(line)
        shown.line(rest)


class _Shown:
    """Shows the job's lines, and its progress as a bar."""

    def __init__(self, bars: ExitStack) -> None:
        self._bars, self._of = bars, ""
        self._done = 0
        self._advance: Callable[[int], None] = _ignore

    def line(self, line: str) -> None:
        if line.startswith(OUT):
            print(line.removeprefix(OUT), flush=True)
        elif line.startswith(ERR):
            print(line.removeprefix(ERR), file=sys.stderr)
        elif line.startswith(PROGRESS):
            with suppress(ValueError):
                self._progress(**json.loads(line.removeprefix(PROGRESS)))

    def _progress(self, what: str, done: int, total: int | None) -> None:
        if what != self._of:
            self._bars.close()
            self._of, self._done = what, 0
            self._advance = self._bars.enter_context(progress(what, total))
        self._advance(done - self._done)
        self._done = done


def _ignore(items: int) -> None:
    pass


class _Marked(io.RawIOBase):
    """Writes whole lines with a mark to a file descriptor."""

    def __init__(self, descriptor: int, mark: str) -> None:
        self._descriptor, self._mark, self._rest = descriptor, mark.encode(), b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        # Ray reports lost workers from a thread of its own, on stdout, which may be read as JSON
        mark = self._mark if threading.current_thread() is threading.main_thread() else ERR.encode()
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            os.write(self._descriptor, (b"" if line.startswith(PROGRESS.encode()) else mark) + line + b"\n")
        return len(data)


def mark_output() -> None:
    """Mark what this process prints from now on, by `OUT` and `ERR`, and have its progress printed."""
    os.environ["GMML_PROGRESS"] = "lines"
    for name, mark in (("stdout", OUT), ("stderr", ERR)):
        stream: Callable[..., Any] = io.TextIOWrapper
        setattr(sys, name, stream(io.BufferedWriter(_Marked(1, mark)), "utf-8", line_buffering=True))
