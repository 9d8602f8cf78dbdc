"""The local scheduler of one run: starts its ranks, and after each attempt does what the log allows.

`python -m gmml_cluster.launch.local.supervisor` runs detached, from the unpacked code snapshot. It holds the run's lock
and a pipe to every rank, so that the ranks save and leave if it dies.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmml_cluster.errors import Fault, GmmlError, LaunchError
from gmml_cluster.launch.local import outage
from gmml_cluster.launch.local.lock import Holder, held, run_digest, state_folder
from gmml_cluster.launch.local.outage import Outage
from gmml_cluster.launch.restart import after
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import COME_BACK, FINISHED, NEVER, RESTARTS, UNMET
from gmml_cluster.run.log import Log
from gmml_cluster.store.open import open_store

LEAVE_S = 60.0
TAKE_OVER_S = 120.0
_TICK_S = 0.2
_TAIL_CHARACTERS = 300
_LEFT = (COME_BACK, NEVER)
_RETRY_S = 10.0
_LONGEST_RETRY_S = 300.0
_STOP = (signal.SIGTERM, signal.SIGUSR2)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """One submission on this machine."""

    root: str
    run: str
    submit: str
    id: str
    ranks: int
    module: str

    @property
    def digest(self) -> str:
        """Names the run on this machine."""
        return run_digest(self.root, self.run)

    def output(self, restart: int, rank: int) -> Path:
        """File that holds what a rank printed."""
        folder = state_folder() / self.digest / self.submit
        return folder / f"{restart:03d}-rank{rank:04d}.log"

    def worker(self, restart: int) -> list[str]:
        """Command that starts a rank."""
        named = {"root": self.root, "run": self.run, "submit": self.submit, "job": self.id, "restart": str(restart)}
        module = [sys.executable, "-P", "-u", "-m", self.module]
        return module + [word for name, value in named.items() for word in (f"--{name}", value)]


@dataclass
class Ranks:
    """The processes of one attempt; leaving the context stops, by pid, those that still run.

    Attributes:
        locks: descriptors of the run's locks, which every rank holds too.
        first_failed: the rank that was the first to leave by an error, once `wait` has seen it.
    """

    job: Job
    restart: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    locks: Sequence[int] = ()

    def __enter__(self) -> "Ranks":
        self.first_failed: int | None = None
        self._pipes: list[int] = []
        self._processes: list[subprocess.Popen[bytes]] = []
        try:
            for rank in range(self.job.ranks):
                self._processes.append(self._start(rank))
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        for pipe in self._pipes:
            os.close(pipe)

    def _start(self, rank: int) -> subprocess.Popen[bytes]:
        output = self.job.output(self.restart, rank)
        output.parent.mkdir(parents=True, exist_ok=True)
        theirs, ours = os.pipe()
        self._pipes.append(ours)
        environment = {**self.environment, **rank_environment(rank, self.job.ranks), "GMML_PIPE": str(theirs)}
        try:
            with output.open("ab") as file:
                return subprocess.Popen(
                    self.command,
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=file,
                    env=environment,
                    pass_fds=[theirs, *self.locks],
                )
        finally:
            os.close(theirs)

    def notify(self) -> None:
        """Give every rank notice: it saves and leaves."""
        for process in self._processes:
            if process.poll() is None:
                process.terminate()

    @property
    def code(self) -> int:
        """The highest exit code, a signal counting as 128 and its number; known when the context is left."""
        return max(_code(process.returncode) for process in self._processes)

    def wait(self) -> bool:
        """Wait until all ranks have left, or 60 s after the first failed; whether notice was given meanwhile."""
        noticed, deadline = False, float("inf")
        while any(process.poll() is None for process in self._processes):
            if signal.sigtimedwait(_STOP, _TICK_S):
                noticed = True
                self.notify()
            self._note_failure()
            if any(process.poll() for process in self._processes):
                deadline = min(deadline, time.monotonic() + LEAVE_S)
            if any(process.poll() == UNMET for process in self._processes):
                self.notify()  # the others cannot meet without it; they would wait for the whole of LEAVE_S
            if time.monotonic() > deadline:
                _log.warning("ranks stayed %g s after the first had left; they are killed", LEAVE_S)
                break
        self._note_failure()
        return noticed

    def _note_failure(self) -> None:
        """Remember the first rank that failed: those that leave after it only lost it, or were sent away."""
        if self.first_failed is None:
            codes = [process.poll() for process in self._processes]
            self.first_failed = next((rank for rank, code in enumerate(codes) if code and code not in _LEFT), None)


def _code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def rank_environment(rank: int, ranks: int) -> dict[str, str]:
    """The variables of torch's launchers, by which a rank knows its number; of several ranks each gets one thread."""
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
    return {**{name: str(value) for name, value in numbers.items()}, **thread_environment(ranks, os.environ)}


def thread_environment(ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps ranks that share a machine from starting a thread for every core each."""
    return {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")} if ranks > 1 else {}


@dataclass(frozen=True)
class Ended:
    """How one start of a job ended.

    Attributes:
        restart: how often the job was started before.
        code: highest exit code of its ranks.
        noticed: whether notice was given.
        errors: output of the rank that failed first; None where none did.
    """

    restart: int
    code: int
    noticed: bool
    errors: Path | None = None

    @property
    def stderr_tail(self) -> str:
        """The failed rank's last line and the file that it stands in; empty where no rank failed or it said nothing."""
        try:
            lines = self.errors.read_text(errors="replace").strip().splitlines() if self.errors else []
        except OSError:
            lines = []
        return f"{self.errors} ends with {lines[-1][:_TAIL_CHARACTERS]!r}" if lines else ""


Judge = Callable[[Ended], bool]
"""Whether the job starts again."""


def supervise(job: Job, judge: Judge, command: Callable[[int], Sequence[str]], locks: Sequence[int] = ()) -> int:
    """Run attempts until `judge` or a notice ends the job; the exit code of the last."""
    restart = 0
    while True:
        with Ranks(job, restart, command(restart), locks=locks) as ranks:
            noticed = ranks.wait()
        failed = None if ranks.first_failed is None else job.output(restart, ranks.first_failed)
        ended = Ended(restart, ranks.code, noticed, failed)
        again = judge(ended) and not noticed  # asked after a notice too: an `end` may be missing
        verdict = "it starts again" if again else "the job ends"
        _log.info("attempt after %d restarts left with %d; %s", restart, ranks.code, verdict)
        if not again or signal.sigtimedwait(_STOP, 0):
            return ranks.code
        restart += 1


def judge_by_log(job: Job) -> Judge:
    """The verdict of `launch.restart`, waited for while the log cannot be read or written.

    No rank is started meanwhile: it could not claim, and the next claim would end the attempt as lost although its exit
    code proves the cause. An outage may last as long as `RESTARTS` tries; the next outage has as many.
    """

    def judge(ended: Ended) -> bool:
        # without an answer the exit code decides: 0 and 78 say that the ranks, or another attempt, wrote the end
        tries = 1 if ended.noticed or ended.code in (FINISHED, NEVER) else RESTARTS + 1
        for left in reversed(range(tries)):
            try:
                again = after(
                    job.root,
                    job.run,
                    submit=job.submit,
                    job=job.id,
                    restart=ended.restart,
                    rc=ended.code,
                    stderr_tail=ended.stderr_tail,
                )
            except GmmlError as fault:
                if not _wait_for_store(job, fault, left, tried=tries - left):
                    return False
            else:
                outage.clear(job.digest, job.submit)
                return again is not None
        return False

    return judge


def _wait_for_store(job: Job, fault: GmmlError, left: int, *, tried: int) -> bool:
    """Keep the reason and wait, if there are tries left; whether the log is to be asked again."""
    first_line = str(fault).splitlines()[0]
    pause = min(_RETRY_S * 2 ** (tried - 1), _LONGEST_RETRY_S)
    _log.warning("%s; %s", first_line, f"asked again in {pause:g} s" if left else "the job ends")
    outage.record(job.digest, job.submit, Outage(first_line, time.time() + pause if left else None))
    return left > 0 and not signal.sigtimedwait(_STOP, pause)


def _served(job: Job, locks: Sequence[int]) -> int:
    """The exit code of a job.

    Raises:
        LaunchError: its ranks cannot be started here, which the log says too.
    """
    try:
        return supervise(job, judge_by_log(job), job.worker, locks)
    except OSError as error:
        problem = f"{error.strerror}; ranks cannot be started"
        fault = LaunchError(Fault(str(error.filename or job.id), problem, "fix this and gmml resume"))
        try:
            log = Log(open_store(f"{job.root}/{job.run}"))
            protocol.start_failed(log, job.submit, job=job.id, message=str(fault))
        except GmmlError:
            outage.record(job.digest, job.submit, Outage(str(fault), None))
        raise fault from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry of the detached process; a byte on descriptor `--ready` tells the submitter that the lock is held."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.launch.local.supervisor", description=__doc__)
    for name in ("root", "run", "submit", "job", "module"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--ranks", type=int, required=True)
    parser.add_argument("--ready", type=int, required=True)
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    signal.pthread_sigmask(signal.SIG_BLOCK, (*_STOP, signal.SIGCONT))
    job = Job(root=given.root, run=given.run, submit=given.submit, id=given.job, ranks=given.ranks, module=given.module)
    me = Holder(host=socket.gethostname(), pid=os.getpid(), submit=job.submit)
    try:
        with held(job.root, job.run, me, wait_s=TAKE_OVER_S) as locks:
            os.write(given.ready, b"1")
            os.close(given.ready)
            return _served(job, locks)
    except GmmlError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code


if __name__ == "__main__":
    sys.exit(main())
