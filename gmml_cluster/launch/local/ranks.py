"""The processes of one start on this machine: one a rank, with a pipe that closes when their supervisor dies."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gmml_cluster.launch.after.exits import RankExit, is_stopped
from gmml_cluster.launch.local.lock import run_digest, state_folder
from gmml_cluster.launch.tail import tail_of
from gmml_cluster.run.codes import COME_BACK, NEVER, UNMET

LEAVE_S = 60.0
STOP = (signal.SIGTERM, signal.SIGUSR2)
"""Signals that ask a supervisor to end its job."""
_TICK_S = 0.2
_LEFT = (COME_BACK, NEVER)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SupervisedJob:
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
        exits: how the ranks left, in their order, once `wait` has returned.
    """

    job: SupervisedJob
    restart: int
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    locks: Sequence[int] = ()

    def __enter__(self) -> "Ranks":
        self.first_failed: int | None = None
        self.exits: list[RankExit] = []
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
        # No process inherits the writing end: however this process dies, the kernel closes it, and the rank reads the
        # end of the pipe. A signal to the ranks would need a supervisor that still runs.
        theirs, ours = os.pipe()
        self._pipes.append(ours)
        environment = {
            **self.environment,
            **rank_environment(rank, self.job.ranks, self.environment),
            "GMML_PIPE": str(theirs),
        }
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

    def give_notice(self) -> None:
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
        noticed, sent_away, deadline = False, False, float("inf")
        while any(process.poll() is None for process in self._processes):
            # blocked and taken here, not by a handler, which could run in the middle of starting a rank
            if signal.sigtimedwait(STOP, _TICK_S):
                noticed = True
                self.give_notice()
            self._note_failure()
            if any(process.poll() for process in self._processes):
                deadline = min(deadline, time.monotonic() + LEAVE_S)
            if not sent_away and any(process.poll() == UNMET for process in self._processes):
                sent_away = True  # the others cannot meet without it, and would wait for the whole of LEAVE_S
                self.give_notice()
            if time.monotonic() > deadline:
                _log.warning("ranks stayed %g s after the first had left; they are killed", LEAVE_S)
                break
        self._note_failure()
        self.exits += [self._exit(rank) for rank in self._unseen()]
        return noticed

    def _exit(self, rank: int) -> RankExit:
        code, pid = self._processes[rank].poll(), self._processes[rank].pid
        output = last_lines(self.job.output(self.restart, rank))
        return RankExit(rank, None if code is None else _code(code), is_stopped(pid) if code is None else False, output)

    def _unseen(self) -> list[int]:
        seen = {known.rank for known in self.exits}
        return [rank for rank in range(len(self._processes)) if rank not in seen]

    def _note_failure(self) -> None:
        """Record who has left, and the first that failed; those that exit later lost their peer or were stopped."""
        self.exits += [self._exit(rank) for rank in self._unseen() if self._processes[rank].poll() is not None]
        if self.first_failed is None:
            codes = [process.poll() for process in self._processes]
            self.first_failed = next((rank for rank, code in enumerate(codes) if code and code not in _LEFT), None)


def _code(returncode: int) -> int:
    return 128 - returncode if returncode < 0 else returncode


def last_lines(output: Path) -> list[str]:
    """What a rank printed last; nothing where its file cannot be read."""
    try:
        with output.open("rb") as file:
            return tail_of(file).splitlines()
    except OSError:
        return []


def rank_environment(rank: int, ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of torch's launchers, by which a rank knows its number; of several ranks each gets one thread."""
    numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
    return {**{name: str(value) for name, value in numbers.items()}, **thread_environment(ranks, environment)}


def thread_environment(ranks: int, environment: Mapping[str, str]) -> dict[str, str]:
    """What keeps ranks that share a machine from starting a thread for every core each."""
    return {"OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", "1")} if ranks > 1 else {}
