"""A virtual machine under the real local launcher: files and their locks, processes, their signals and pipes."""

import errno
import fcntl
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from types import SimpleNamespace
from typing import Any

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch import restart
from gmml_cluster.launch.local import launcher, lock, outage, ranks, supervisor
from gmml_cluster.launch.local.launcher import READY_S, LocalLauncher
from gmml_cluster.run.codes import ORPHAN_S
from gmml_cluster.train.ranks.agreement import StartInfo
from tests.simulation.clock import Event, Time
from tests.simulation.ranks import Pod, give_notice, start_rank
from tests.simulation.world import Node, Process, Signal, here

HOST = "machine"
_real_judge, _NOTHING = restart.judge, restart._NONE


@dataclass(eq=False)
class Description:
    """An open file: whoever inherits its descriptor holds its lock too."""

    file: "File"
    owners: list[Process]
    closed: bool = False

    @property
    def alive(self) -> bool:
        """Whether a process still has it."""
        inherited = self.owners[1:] if self.closed else self.owners
        return any(process.alive for process in inherited)


@dataclass(eq=False)
class File:
    """A file of this machine alone, or a lock that all machines see."""

    data: bytes = b""
    locks: list[tuple[Description, int]] = field(default_factory=list)

    def lock(self, mine: Description, kind: int) -> bool:
        """Take the lock as flock does, or say that another has it."""
        self.locks = [(other, held) for other, held in self.locks if other.alive]
        if any(fcntl.LOCK_EX in (held, kind) for other, held in self.locks if other is not mine):
            return False
        self.locks = [(other, held) for other, held in self.locks if other is not mine]
        self.locks.append((mine, kind))
        return True


class Machine(LocalLauncher):
    """The real launcher, and what it finds on the machine."""

    def __init__(self) -> None:
        self.node_ = Node(HOST)
        self.files: dict[str, File] = {}
        self.descriptions: dict[int, Description] = {}
        self.ready: dict[int, Event] = {}
        self.starts: dict[tuple[Process, str], Pod] = {}
        self.processes: list[Process] = []

    def node(self, profile: Any) -> Any:
        return SimpleNamespace(gpus=0)

    def start(self, name: str, body: Any, after_s: float = 0.0, about: Any = None) -> Process:
        """A process of this machine."""
        process = here().start(name, body, self.node_, after_s, about)
        self.processes.append(process)
        return process


def machine() -> Machine:
    """The one of this history."""
    return here().launcher


class Path(PurePosixPath):
    """Of `pathlib.Path` what the local launcher uses."""

    @staticmethod
    def home() -> "Path":
        return Path("/home")

    def exists(self) -> bool:
        return str(self) in machine().files

    def mkdir(self, *, parents: bool = False, exist_ok: bool = False) -> None:
        pass

    def unlink(self, *, missing_ok: bool = False) -> None:
        machine().files.pop(str(self), None)

    def open(self, mode: str) -> "Opened":
        if mode == "rb" and not self.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return Opened(machine().files.setdefault(str(self), File()))

    def read_text(self) -> str:
        if not self.exists():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))
        return machine().files[str(self)].data.decode()

    def write_text(self, text: str) -> None:
        machine().files[str(self)] = File(text.encode())


class Opened:
    """A file object with a descriptor."""

    def __init__(self, file: File) -> None:
        self._file, descriptions = file, machine().descriptions
        self._number = len(descriptions) + 100
        descriptions[self._number] = Description(file, [here().process])

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *error: object) -> None:
        machine().descriptions[self._number].closed = True

    def fileno(self) -> int:
        return self._number

    def truncate(self, size: int) -> None:
        self._file.data = self._file.data[:size]

    def write(self, data: bytes) -> None:
        self._file.data += data

    def flush(self) -> None:
        pass

    def read(self) -> bytes:
        return self._file.data


class Locks:
    """Of the module `fcntl`."""

    LOCK_EX, LOCK_SH, LOCK_NB = fcntl.LOCK_EX, fcntl.LOCK_SH, fcntl.LOCK_NB

    @staticmethod
    def flock(opened: Opened, kind: int) -> None:
        mine = machine().descriptions[opened.fileno()]
        if not mine.file.lock(mine, kind & ~fcntl.LOCK_NB):
            raise BlockingIOError(errno.EWOULDBLOCK, os.strerror(errno.EWOULDBLOCK))


class System:
    """Of the module `os`."""

    environ: Mapping[str, str] = {}
    pathsep = os.pathsep

    @staticmethod
    def getpid() -> int:
        return machine().processes.index(here().process) + 1

    @staticmethod
    def kill(pid: int, number: int) -> None:
        process = machine().processes[pid - 1]
        if not process.alive:
            raise ProcessLookupError
        process.about.asked = True
        process.about.woken.give()

    @staticmethod
    def fsync(descriptor: int) -> None:
        pass

    @staticmethod
    def write(descriptor: int, data: bytes) -> None:
        machine().ready[descriptor].set()

    @staticmethod
    def close(descriptor: int) -> None:
        pass

    @staticmethod
    def pipe() -> tuple[int, int]:
        return 0, 0

    @staticmethod
    def replace(source: Path, path: Path) -> None:
        files = machine().files
        files[str(path)] = files.pop(str(source))


@dataclass
class Supervising:
    """What a process is that is a supervisor.

    Attributes:
        asked: whether a signal to end its job is pending.
        woken: given by a signal, and when a child of it is gone.
    """

    asked: bool = False
    woken: Signal = field(default_factory=Signal)


class Signals:
    """Of the module `signal`: those that a supervisor waits for."""

    SIG_BLOCK, SIGTERM, SIGCONT = signal.SIG_BLOCK, signal.SIGTERM, signal.SIGCONT

    @staticmethod
    def pthread_sigmask(how: int, numbers: Sequence[int]) -> None:
        pass

    @staticmethod
    def sigtimedwait(numbers: Sequence[int], seconds: float) -> bool:
        about: Supervising = here().process.about
        if not about.asked and seconds:
            here().wait(about.woken, seconds)
        asked, about.asked = about.asked, False
        return asked


def start_supervisor(arguments: list[str], environment: Mapping[str, str], output: Path) -> None:
    """Of the launcher: a detached process, awaited until it holds the run's lock."""
    world, found = here(), machine()
    number, ready = len(found.ready), Event()
    found.ready[number] = ready
    words = [*arguments[3:], "--ready", str(number)]

    def body() -> None:
        code = supervisor.main(words)
        world.note(world.process.name, "leaves", f"code {code}")

    name = f"supervisor {words[words.index('--submit') + 1][:6]}"
    process = found.start(name, body, world.random.uniform(0.01, 3.0), Supervising())
    world.start(f"pipes of {name}", lambda: _close_pipes(process))
    deadline = world.now + READY_S
    while process.alive and world.now < deadline:
        if ready.wait(min(1.0, deadline - world.now)):
            return
    process.end(128 + 9, "it is not ready in time")
    raise LaunchError(Fault(str(output), "the supervisor did not start"))


def _close_pipes(supervising: Process) -> None:
    """The end of a supervisor is notice to its ranks, which then have so long to leave."""
    supervising.wait()
    pods = [pod for (process, _), pod in machine().starts.items() if process is supervising]
    for pod in pods:
        give_notice(pod)
    here().sleep(ORPHAN_S)
    for process in (process for pod in pods for process in pod.processes):
        process.end(1, "orphaned for too long")


class Popen:
    """Of the module `subprocess`: a rank."""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], pass_fds: Sequence[int], **files: Any
    ) -> None:
        world, found, mine = here(), machine(), here().process
        given = dict(zip(command[5::2], command[6::2], strict=True))
        restart, ranks = given["--restart"], int(env["WORLD_SIZE"])
        start = StartInfo(
            given["--root"], given["--run"], given["--submit"], given["--job"], int(restart), None, world.now
        )
        pod = found.starts.setdefault((mine, restart), Pod(start, ranks))
        others = [p for other in found.starts.values() if other is not pod for p in other.processes if p.alive]
        if others:
            world.judge.broken.append(f"{others[0].name} lives when ranks of start {restart} begin")
        self._process = start_rank(pod, int(env["RANK"]), ranks, found.node_)
        self.pid = len(found.processes) + 1
        found.processes.append(self._process)
        for descriptor in pass_fds:
            if descriptor in found.descriptions:
                found.descriptions[descriptor].owners.append(self._process)
        world.start("kernel", lambda: (self._process.wait(), mine.about.woken.give()))

    @property
    def returncode(self) -> int | None:
        code = self._process.code
        return 128 - code if code is not None and code > 128 else code

    def poll(self) -> int | None:
        return self.returncode

    def wait(self) -> int:
        return self._process.wait()

    def kill(self) -> None:
        self._process.end(128 + 9, "its supervisor kills it")

    def terminate(self) -> None:
        self._process.about.signals.stop_request.give("notice")


def is_stopped(pid: int) -> bool:
    """Of the local launcher: whether a process is stopped by a signal."""
    return machine().processes[pid - 1].frozen_until > here().now


def judge(log: Any, start: Any, rc: int, evidence: Any = _NOTHING) -> Any:
    """Of `launch.restart`: the real verdict, judged."""
    world = here()
    seen = world.slots()
    verdict = _real_judge(log, start, rc, evidence)
    world.judged(start, seen, verdict, "here")
    return verdict


def replacements() -> dict[Any, dict[str, Any]]:
    """What of the local launcher's modules is virtual."""
    sockets = SimpleNamespace(gethostname=lambda: HOST)
    silent = {"print": lambda *words, **more: None, "tail_of": lambda file: ""}
    return {
        lock: {
            "Path": Path,
            "fcntl": Locks,
            "os": System,
            "socket": sockets,
            "time": Time,
            "_RETRY_S": 1.0,
            "shutil": SimpleNamespace(rmtree=lambda path, **more: None),
        },
        outage: {"os": System},
        launcher: {
            "socket": sockets,
            "unpack": lambda *code: Path("/code"),
            "cache_folder": lambda: Path("/cache"),
            "_start": start_supervisor,
        },
        ranks: {
            "os": System,
            "signal": Signals,
            "subprocess": SimpleNamespace(Popen=Popen, DEVNULL=None),
            "time": Time,
            "_TICK_S": 5.0,
            "is_stopped": is_stopped,
            "tail_of": silent["tail_of"],
        },
        supervisor: {"os": System, "signal": Signals, "socket": sockets, "time": Time, **silent},
        restart: {"judge": judge},
    }
