"""Runs of a sweep on this machine: so many at work at once, the others wait in the order in which they came.

Each supervisor takes a numbered ticket and locks it as long as it or a rank of it lives; its turn has come when fewer
than so many tickets before its own are locked. Nobody keeps a list: one that dies is passed over, and one that is
resumed queues anew, at the end.
"""

import fcntl
import hashlib
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gmml_cluster.launch.local.lock import is_free, state_folder, take
from gmml_cluster.launch.local.ranks import STOP
from gmml_cluster.wording import counted

_LOOK_S = 1.0


def queue_folder(root: str, sweep: str) -> Path:
    """Folder of a sweep's tickets on this machine."""
    digest = hashlib.sha256(f"{root.rstrip('/')}\n{sweep}".encode()).hexdigest()[:16]
    return state_folder() / "queues" / digest


@dataclass(frozen=True)
class Ticket:
    """A place in a queue; held as long as its file is open here or in a rank."""

    folder: Path
    number: int
    file: IO[bytes]

    def ahead(self) -> int:
        """How many before this one are at work, or wait; tickets that nobody holds any more are removed."""
        with _counter(self.folder):
            before = [path for path in _tickets(self.folder) if int(path.stem) < self.number]
            for path in before:
                if is_free(path):
                    path.unlink(missing_ok=True)
            return sum(path.exists() for path in before)

    def wait(self, parallel: int) -> bool:
        """Return once fewer than `parallel` are ahead; False where a signal asked the job to end before."""
        while self.ahead() >= parallel:
            if signal.sigtimedwait(STOP, _LOOK_S):
                return False
        return True


@contextmanager
def ticket(folder: Path) -> Iterator[Ticket]:
    """Hold the next ticket of a queue."""
    folder.mkdir(parents=True, exist_ok=True)
    with _counter(folder):
        number = max((int(path.stem) for path in _tickets(folder)), default=0) + 1
        file = (folder / f"{number:08d}.ticket").open("a+b")
        assert take(file, fcntl.LOCK_EX), "a ticket that was just made is nobody else's"
    with file:
        yield Ticket(folder, number, file)


@contextmanager
def shown_waiting(run: str, submit: str, parallel: int, sweep: str) -> Iterator[None]:
    """Let `gmml status` say that a job waits for its turn.

    Args:
        run: digest of the run.
        submit: the job's submit.
        parallel: runs of the sweep at once.
        sweep: its name.
    """
    path = _waiting_file(run, submit)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"waits for its turn: {counted(parallel, 'run')} of {sweep} at once")
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def waits(run: str, submit: str) -> str | None:
    """Why a job that has a supervisor starts no ranks yet; None where it does not wait for others of its sweep."""
    with suppress(OSError):
        return _waiting_file(run, submit).read_text()
    return None


def _waiting_file(run: str, submit: str) -> Path:
    return state_folder() / run / submit / "waits"


def _tickets(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ticket"))


@contextmanager
def _counter(folder: Path) -> Iterator[None]:
    """One at a time: between making a ticket and locking it, it would pass for one that nobody holds."""
    with (folder / "lock").open("a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
