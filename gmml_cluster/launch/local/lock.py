"""The lock that a run's supervisor and its ranks hold on this machine, and what it tells others about its holder.

The ranks inherit the descriptors, so that the lock is free when the last process that works on the run has left.
"""

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from gmml_cluster.errors import LaunchError

_RETRY_S = 0.1


@dataclass(frozen=True)
class Holder:
    """Who supervises a run: a process of a host, for one submission."""

    host: str
    pid: int
    submit: str

    def tell(self) -> None:
        """Ask the supervisor to end its job; one that is gone, or of another host, is left in peace.

        The ranks of a supervisor that is gone were told by its death.
        """
        if self.pid and self.host == socket.gethostname():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


NAMELESS = Holder(host="", pid=0, submit="")


def state_folder() -> Path:
    """Where this machine keeps what is its own alone: locks and the ranks' output."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "gmml"


def run_digest(root: str, name: str) -> str:
    """Sixteen hexadecimal digits that name the run `name` under `root` on this machine."""
    return hashlib.sha256(f"{root.rstrip('/')}\n{name}".encode()).hexdigest()[:16]


def lock_path(digest: str) -> Path:
    """The lock file of a run."""
    return state_folder() / f"{digest}.lock"


def forget(root: str, name: str) -> None:
    """Delete what this machine keeps of a run: its lock and what its ranks printed."""
    digest = run_digest(root, name)
    shutil.rmtree(state_folder() / digest, ignore_errors=True)
    lock_path(digest).unlink(missing_ok=True)


def folder_of(root: str) -> Path | None:
    """The folder that a root names, or None where it lies in an object store."""
    return None if "://" in root and not root.startswith("file://") else Path(root.removeprefix("file://"))


def holder(path: Path) -> Holder | None:
    """Who holds the lock now; None where nobody does, `NAMELESS` where its holder has not written its name yet."""
    try:
        with path.open("rb") as file:
            if _take(file, fcntl.LOCK_SH):
                return None
            written = file.read()
    except FileNotFoundError:
        return None
    return Holder(**json.loads(written)) if written else NAMELESS


@contextmanager
def held(root: str, name: str, me: Holder, *, wait_s: float) -> Iterator[list[int]]:
    """Hold the run's lock on this machine and, where the root is a folder, in the run's folder too.

    Yields:
        The locks' descriptors: a process that inherits them holds the lock too.

    Raises:
        LaunchError: another supervisor still held one of them after `wait_s`.
    """
    folder = folder_of(root)
    paths = [lock_path(run_digest(root, name))] + ([folder / name / "supervisor.lock"] if folder else [])
    deadline = time.monotonic() + wait_s
    with ExitStack() as stack:
        files = []
        for path in paths:
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(stack.enter_context(path.open("a+b")))
            _hold(files[-1], path, me, deadline)
        try:
            yield [file.fileno() for file in files]
        finally:
            for file in files:  # nobody is to read an old name while the next holder writes its own
                file.truncate(0)


def _hold(file: IO[bytes], path: Path, me: Holder, deadline: float) -> None:
    while not _take(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            other = holder(path)
            told = f"process {other.pid} on {other.host}, or a rank of it," if other else "another process"
            raise LaunchError(f"{path}: {told} holds this run; one supervisor a run; wait for it or cancel the run")
        time.sleep(_RETRY_S)
    file.truncate(0)
    file.write(json.dumps(asdict(me)).encode())
    file.flush()
    os.fsync(file.fileno())


def _take(file: IO[bytes], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
