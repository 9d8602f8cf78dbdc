"""Runs on this machine: a detached supervisor for each, found again by its lock."""

import os
import select
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch import imports
from gmml_cluster.launch.local import lock, outage, queue
from gmml_cluster.launch.local.lock import NAMELESS, Holder, holder, lock_path, run_digest, state_folder, supervisor_of
from gmml_cluster.launch.local.ranks import thread_environment
from gmml_cluster.launch.protocol import JobReport, JobState, Queue, Submission, one_by_one
from gmml_cluster.launch.snapshot import cache_folder, unpack

if TYPE_CHECKING:  # `gmml status` polls without pydantic
    from gmml_cluster.plan.machine import Machine
    from gmml_cluster.spec.cluster import ClusterProfile

READY_S = 150.0


@dataclass(frozen=True)
class LocalJob:
    """What a local job's id says: `host:run:submit`, run being the digest that names its lock."""

    host: str
    run: str
    submit: str

    @classmethod
    def read(cls, job: str) -> "LocalJob":
        """The parts of an id; one that this launcher never gave out is of no host, and so unknown everywhere."""
        host, run, submit = ["", "", *job.rsplit(":", 2)][-3:]
        return cls(host, run, submit)

    def __str__(self) -> str:
        return f"{self.host}:{self.run}:{self.submit}"

    @property
    def is_here(self) -> bool:
        """Whether this is the machine that it was submitted on."""
        return self.host == socket.gethostname()

    def supervisor(self) -> Holder | None:
        """The supervisor that serves this job now."""
        found = supervisor_of(self.run)
        return found if found is not None and found.submit == self.submit else None

    @property
    def report(self) -> JobReport:
        """How the job is, by the locks of its run.

        Gone means that nothing restarts it: ranks that outlived their supervisor may still save, and hold the run's
        lock until they have. While the store cannot be read or written no ranks run, so the job waits; and so it does
        until its turn in the queue of a sweep.
        """
        if not self.is_here:
            return JobReport("unknown")
        state = self._state()
        turn = queue.waits(self.run, self.submit) if state == "running" else None
        if turn is not None:
            return JobReport("queued", turn)
        trouble = outage.found(self.run, self.submit) if state != "unknown" else None
        if trouble is None:
            return JobReport(state, lingering=state == "gone" and self._has_ranks())
        return JobReport("queued" if state == "running" else state, trouble.reason, trouble.next_try)

    def _state(self) -> JobState:
        """Unknown while a supervisor has not written its name yet."""
        found = supervisor_of(self.run)
        if found == NAMELESS:
            return "unknown"
        return "running" if found is not None and found.submit == self.submit else "gone"

    def _has_ranks(self) -> bool:
        """Whether ranks of this job still hold the run's lock, or something that is not known yet does."""
        found = holder(lock_path(self.run))
        return found is not None and found.submit in ("", self.submit)


class LocalLauncher:
    """Keeps the Launcher protocol on this machine."""

    def node(self, profile: "ClusterProfile") -> "Machine":
        """This machine."""
        from gmml_cluster.plan.machine import this_machine

        return this_machine()

    def environment(self, profile: "ClusterProfile", ranks_per_node: int) -> dict[str, str]:
        """The profile's variables, and one thread for each of several ranks that share this machine."""
        here = {**os.environ, **profile.variables}
        return {**thread_environment(ranks_per_node, here), **profile.variables}

    def preflight(self, submission: Submission) -> list[Fault]:
        """What would keep this submission from running here."""
        faults = []
        least, _ = submission.plan.nodes
        if least > 1:
            problem = f"{least} nodes at least; this machine is one"
            faults.append(Fault("resources.nodes", problem, "set resources.nodes=1 or name another cluster"))
        lacking = imports.missing(submission.imports)
        if lacking:  # the ranks would die of it one start after the other, and only their own files would say why
            problem = f"{sys.executable} starts the ranks and has no {' and no '.join(lacking)}"
            faults.append(
                Fault("launcher", problem, "pip install 'gmml-cluster[train]' there, or name another cluster")
            )
        return faults

    def script(self, submission: Submission) -> str:
        """The supervisor's command, the token shown as `<token>`."""
        return shlex.join([sys.executable, *_arguments(submission, "<token>")]).replace("'<token>'", "<token>") + "\n"

    def bounds(self, submission: Submission) -> dict[str, str]:
        """Nothing: output lies where the job's id says."""
        return {}

    def submit(self, submission: Submission) -> str:
        """Start the supervisor and return when it holds the run's lock; that of an older submit is ended first.

        Raises:
            LaunchError: it did not come up; the last line of its log is quoted.
        """
        run = run_digest(submission.root, submission.name)
        other = supervisor_of(run)
        if other is not None:
            other.terminate()
        job = LocalJob(host=socket.gethostname(), run=run, submit=submission.token)
        code = unpack(submission.code.data, submission.code.digest, cache_folder())
        output = state_folder() / run / submission.token / "supervisor.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        arguments = [*_arguments(submission, submission.token), "--job", str(job)]
        # a rank that is to see GPUs and sees none fails by name instead of training on the processor
        expected = {"GMML_GPUS": str(self.node(submission.profile).gpus)}
        environment = {**os.environ, **expected, **submission.profile.variables}
        _start(arguments, {**environment, "PYTHONPATH": _path(code, environment)}, output)
        return str(job)

    def submit_all(self, submissions: Sequence[Submission]) -> list[str | LaunchError]:
        """A supervisor each; those that have to wait for others start no ranks before."""
        return one_by_one(self.submit, submissions)

    def poll(self, jobs: Mapping[str, str]) -> dict[str, JobReport]:
        """How each job is, by the locks of its run; a job of another machine is unknown here."""
        return {job: LocalJob.read(job).report for job in jobs}

    def give_notice(self, job: str) -> None:
        """Give the job's ranks notice through its supervisor, which then ends the job.

        Raises:
            LaunchError: the job runs on another machine.
        """
        local = LocalJob.read(job)
        if not local.is_here:
            raise LaunchError(
                Fault(job, f"started on {local.host}, which cannot be reached from here", "cancel it there")
            )
        supervisor = local.supervisor()
        if supervisor is not None:
            supervisor.terminate()

    cancel = give_notice

    def output(self, job: str, bounds: Mapping[str, Any], *, restart: int | None, rank: int) -> Path | None:
        """File on this machine with what a rank printed in one start; None where there is none."""
        local = LocalJob.read(job)
        if not local.is_here:
            return None
        start = "*" if restart is None else f"{restart:03d}"
        return max((state_folder() / local.run / local.submit).glob(f"{start}-rank{rank:04d}.log"), default=None)

    def worker(self, root: str, name: str) -> str | None:
        """The holder of the run's lock: a supervisor or a rank; on any machine, where the root is a folder."""
        found = lock.workers(root, name)
        return None if found is None else str(found)

    def forget(self, root: str, name: str) -> None:
        """Delete its locks and what its ranks printed."""
        lock.forget(root, name)


def _path(code: Path, environment: Mapping[str, str]) -> str:
    return os.pathsep.join([str(code), *filter(None, [environment.get("PYTHONPATH")])])


def _arguments(submission: Submission, token: str) -> list[str]:
    supervisor = ["-P", "-m", "gmml_cluster.launch.local.supervisor"]
    run = ["--root", submission.root, "--run", submission.name, "--submit", token]
    ranks = ["--module", submission.module, "--ranks", str(submission.plan.ranks_per_node)]
    return [*supervisor, *run, *ranks, *_place(submission.queue)]


def _place(of_sweep: Queue | None) -> list[str]:
    """Arguments for a run of a sweep: one at a time unless more are asked for, for they share this machine."""
    return [] if of_sweep is None else ["--queue", of_sweep.name, "--parallel", str(of_sweep.parallel or 1)]


def _start(arguments: list[str], environment: Mapping[str, str], output: Path) -> None:
    """Start the detached supervisor; it writes a byte to the pipe once it holds the run's lock."""
    reading, ready = os.pipe()
    try:
        with output.open("ab") as file:
            process = subprocess.Popen(
                [sys.executable, *arguments, "--ready", str(ready)],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env=environment,
                cwd=output.parent,
                pass_fds=[ready],
                start_new_session=True,
            )
    finally:
        os.close(ready)
    try:
        _await_ready(reading, output)
    except BaseException:  # an interrupt too: nothing may work on a run that is about to be removed
        process.kill()
        process.wait()
        raise


def _await_ready(reading: int, output: Path) -> None:
    with os.fdopen(reading, "rb") as pipe:
        if select.select([pipe], [], [], READY_S)[0] and pipe.read(1):
            return
    last = (output.read_text(errors="replace").strip().splitlines() or ["it printed nothing"])[-1]
    raise LaunchError(Fault(str(output), f"the supervisor did not start: {last}", "fix this and submit again"))
