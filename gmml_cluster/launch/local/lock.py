"""Two locks of a run on this machine: who works on it, and who supervises it.

The run's lock is inherited by the ranks, so that it is free only when the last process that works on the run has gone:
a new supervisor waits for it, and nothing is deleted before. The supervisor's own lock is not inherited. Without it a
rank that still saves after its supervisor was killed would pass for the supervisor, and `gmml resume` would restart
nothing. A process id cannot replace the second lock, because the kernel uses ids again.
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

from gmml_cluster.errors import Fault, LaunchError

_RETRY_S = 0.1


@dataclass(frozen=True)
class Holder:
    """Who supervises a run: a process of a host, for one submission."""

    host: str
    pid: int
    submit: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, or a rank of it," if self.host else "a process"

    def terminate(self) -> None:
        """Ask the supervisor to end its job; does nothing for one that is gone, or of another host.

        Ranks whose supervisor died have had notice already: its death closed their pipe.
        """
        if self.pid and self.host == socket.gethostname():
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)


NAMELESS = Holder(host="", pid=0, submit="")


def state_folder() -> Path:
    """Folder for what concerns this machine alone: locks and the ranks' output."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "gmml"


def run_digest(root: str, name: str) -> str:
    """Sixteen hexadecimal digits that name the run `name` under `root` on this machine."""
    return hashlib.sha256(f"{root.rstrip('/')}\n{name}".encode()).hexdigest()[:16]


def lock_path(digest: str) -> Path:
    """The run's lock, which its ranks hold too."""
    return state_folder() / f"{digest}.lock"


def supervisor_path(digest: str) -> Path:
    """The lock of the run's supervisor alone."""
    return state_folder() / f"{digest}.supervisor.lock"


def forget(root: str, name: str) -> None:
    """Delete what this machine keeps of a run: its locks and what its ranks printed."""
    digest = run_digest(root, name)
    shutil.rmtree(state_folder() / digest, ignore_errors=True)
    for path in (lock_path(digest), supervisor_path(digest)):
        path.unlink(missing_ok=True)


def folder_of(root: str) -> Path | None:
    """The folder that a root names, or None where it lies in an object store."""
    return None if "://" in root and not root.startswith("file://") else Path(root.removeprefix("file://"))


def holder(path: Path) -> Holder | None:
    """Who holds the lock now; None where it is free, `NAMELESS` where its holder has not written its name yet."""
    try:
        with path.open("rb") as file:
            if take(file, fcntl.LOCK_SH):
                return None
            written = file.read()
    except FileNotFoundError:
        return None
    return Holder(**json.loads(written)) if written else NAMELESS


def supervisor_of(digest: str) -> Holder | None:
    """The supervisor of a run; `NAMELESS` where it has not written its name yet."""
    own = supervisor_path(digest)
    # a supervisor of version 0.1 has the run's lock alone; it may still run when the package is upgraded
    return holder(own if own.exists() else lock_path(digest))


def workers(root: str, name: str) -> Holder | None:
    """Who works on a run, by the locks that can be seen from this machine; None where nothing does."""
    return next((found for path in _run_locks(root, name) if (found := holder(path)) is not None), None)


def _run_locks(root: str, name: str) -> list[Path]:
    """The run's lock here, and where the root is a folder the one in the run's folder, seen by other machines too."""
    folder = folder_of(root)
    return [lock_path(run_digest(root, name)), *([folder / name / "supervisor.lock"] if folder else [])]


@contextmanager
def held(root: str, name: str, me: Holder, *, wait_s: float) -> Iterator[list[int]]:
    """Hold the supervisor's lock and the run's, the latter in the run's folder too where the root is one.

    Yields:
        The descriptors of the run's locks: a process that inherits them holds these too.

    Raises:
        LaunchError: another supervisor, or a rank of one that is gone, still held one of them after `wait_s`.
    """
    own, shared = supervisor_path(run_digest(root, name)), _run_locks(root, name)
    deadline = time.monotonic() + wait_s
    with ExitStack() as stack:
        files = []
        for path in (own, *shared):
            path.parent.mkdir(parents=True, exist_ok=True)
            files.append(stack.enter_context(path.open("a+b")))
            _hold(files[-1], path, me, deadline)
        try:
            yield [file.fileno() for file in files[1:]]
        finally:
            for file in files:  # before the lock is free: the next holder must not be taken for this one
                file.truncate(0)


def _hold(file: IO[bytes], path: Path, me: Holder, deadline: float) -> None:
    while not take(file, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            other = holder(path)
            problem = f"{other or 'another process'} holds this run; one supervisor a run"
            raise LaunchError(Fault(str(path), problem, "wait for it or cancel the run"))
        time.sleep(_RETRY_S)
    file.truncate(0)
    file.write(json.dumps(asdict(me)).encode())
    file.flush()
    os.fsync(file.fileno())


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock of this file."""
    with suppress(FileNotFoundError), path.open("rb") as file:
        return take(file, fcntl.LOCK_SH)
    return True


def take(file: IO[bytes], kind: int) -> bool:
    """Lock an open file if nobody else holds it; whether it is ours now."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
