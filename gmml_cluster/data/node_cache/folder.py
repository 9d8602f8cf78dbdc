"""The folder of a node cache: files that several processes write, read and remove, and a number that none exceeds.

A file is written under another name beside its own and then renamed, so what has a name is whole; one without that
last step belongs to nobody and is written anew. Its writer holds a lock on it. How many files there are stands in
`gmml-count`, which changes under a lock together with the files themselves. The kernel releases the locks of a process
that is killed; at worst the number is then too high, until the next process counts. Nothing is fsynced: what a crash of
the node leaves of a file is distinguished from data by the checksums of the samples in it. Other files in the
folder, a person's perhaps, are neither counted nor removed.

Everything here raises OSError where the folder fails.
"""

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from enum import Enum
from pathlib import Path

from gmml_cluster.store.rehearsal import rehearsal

_COUNT = "gmml-count"
WHOLE, UNFINISHED = ".gmml-block", ".gmml-part"
_LOCK_S = 10.0
"""A lock is held for a system call or two, or as long as names are listed; a stopped process may hold it for ever."""
_FIRST_POLL_S, _LONGEST_POLL_S = 0.0001, 0.005


class Refusal(Enum):
    """Why a name cannot be written."""

    BUSY = "another is writing it, or has just done so"
    FULL = "there are as many files as may be"


class UnwrittenFile:
    """The right to write one file: it has its room, and nobody else writes it."""

    def __init__(self, folder: "CacheFolder", name: str, descriptor: int) -> None:
        self._folder, self._name, self._descriptor = folder, name, descriptor

    def publish(self, data: bytes) -> None:
        """Write the file and give it its name; where that fails nothing is left of it."""
        try:
            rehearsal.write()
            os.posix_fallocate(self._descriptor, 0, len(data))  # a full disk says so here, not half-way
            os.ftruncate(self._descriptor, len(data))
            left, at = memoryview(data), 0
            while at < len(data):
                at += os.pwrite(self._descriptor, left[at:], at)
            self._folder.publish(self._name)
        except BaseException:
            self.abandon()
            raise
        os.close(self._descriptor)

    def abandon(self) -> None:
        """Give the right and the room back."""
        try:
            self._folder.give_up(self._name)
        finally:
            os.close(self._descriptor)


class CacheFolder:
    """At most `most` files below a folder; thread-safe, and safe beside other processes that use it.

    Args:
        path: made, with its parents, if it is not there; readable by its owner alone then. Files take its mode.
        most: files, those being written included.
    """

    def __init__(self, path: Path, most: int) -> None:
        self.path, self._most = path, most
        self._threads = threading.Lock()  # one thread of a process at a time waits for the other processes

    def read(self, name: str, start: int, length: int) -> bytes | None:
        """Bytes of a file; None where it is not there, fewer where it ends.

        A file that is removed meanwhile is read to its end: the kernel keeps it as long as it is open.
        """
        try:
            descriptor = os.open(self._whole(name), os.O_RDONLY)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.pread(descriptor, length, start)
        finally:
            os.close(descriptor)

    def claim(self, name: str) -> UnwrittenFile | Refusal:
        """The right to write a file that is not there."""
        path = self._unfinished(name)
        with self._counted() as count:
            if self._whole(name).exists():
                return Refusal.BUSY
            try:
                descriptor = os.open(path, os.O_RDWR)
            except FileNotFoundError:
                return self._claim_new(name, path, count)
        # a killed writer's, which is counted already, if nobody holds its lock
        if _locked_at_once(descriptor):
            return UnwrittenFile(self, name, descriptor)
        os.close(descriptor)
        return Refusal.BUSY

    def _claim_new(self, name: str, path: Path, count: "_Count") -> UnwrittenFile | Refusal:
        if count.files >= self._most:
            return Refusal.FULL
        count.write(count.files + 1)  # first: a process that is killed in between must not leave a file uncounted
        try:
            descriptor = self._made(path, os.O_EXCL)
        except BaseException:
            count.write(count.files - 1)
            raise
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody else can have seen it: they ask under the lock
        return UnwrittenFile(self, name, descriptor)

    def publish(self, name: str) -> None:
        """Give a written file its name. Under the lock, since a listing beside a rename may show both names or none."""
        with self._counted():
            os.replace(self._unfinished(name), self._whole(name))

    def give_up(self, name: str) -> None:
        """Remove what was written of a file."""
        self._remove([self._unfinished(name)])

    def remove(self, names: Iterable[str]) -> int:
        """Remove files; says how many there were. Others may have removed some."""
        return self._remove([self._whole(name) for name in names])

    def _remove(self, paths: Iterable[Path]) -> int:
        removed = 0
        with self._counted() as count:
            for path in paths:
                with suppress(FileNotFoundError):
                    path.unlink()
                    removed += 1
            if removed:
                count.write(count.files - removed)
        return removed

    def recount(self) -> None:
        """Remove what killed writers left, and write down how many files there are."""
        with self._counted() as count:
            for name in _own(os.listdir(self.path)):
                if name.endswith(UNFINISHED):
                    _remove_if_unlocked(self.path / name)
            count.write(len(_own(os.listdir(self.path))))

    def names(self) -> list[str]:
        """Files that are whole."""
        return [name.removesuffix(WHOLE) for name in os.listdir(self.path) if name.endswith(WHOLE)]

    def since(self, name: str) -> int:
        """When a file was written, in nanoseconds; 0 where it is not there any more."""
        try:
            return self._whole(name).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def _whole(self, name: str) -> Path:
        return self.path / (name + WHOLE)

    def _unfinished(self, name: str) -> Path:
        return self.path / (name + UNFINISHED)

    @contextmanager
    def _counted(self) -> Iterator["_Count"]:
        """What is done inside changes files and their number together, and no other process is inside."""
        try:
            descriptor = os.open(self.path / _COUNT, os.O_RDWR)
        except FileNotFoundError:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = self._made(self.path / _COUNT)
        try:
            with self._locked(descriptor):
                yield _Count(descriptor, self.path)
        finally:
            os.close(descriptor)

    @contextmanager
    def _locked(self, descriptor: int) -> Iterator[None]:
        """Polls, as a wait in the kernel has no limit. Closing the descriptor releases the lock of the file."""
        until, pause_s = time.monotonic() + _LOCK_S, _FIRST_POLL_S
        held = TimeoutError(errno.ETIMEDOUT, f"its lock was held for {_LOCK_S:g} s by another process")
        if not self._threads.acquire(timeout=_LOCK_S):
            raise held
        try:
            while not _locked_at_once(descriptor):
                if time.monotonic() > until:
                    raise held
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_POLL_S)
            yield
        finally:
            self._threads.release()

    def _made(self, path: Path, flags: int = 0) -> int:
        """A new file with the folder's mode: whoever shares the folder must be able to write it."""
        mode = stat.S_IMODE(self.path.stat().st_mode) & 0o666
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | flags, mode)
        with suppress(PermissionError):  # another user made it first
            os.fchmod(descriptor, mode)
        return descriptor


class _Count:
    """The number of files, as `count` says; of the folder itself where that says nothing."""

    def __init__(self, descriptor: int, folder: Path) -> None:
        self._descriptor = descriptor
        text = os.pread(descriptor, 32, 0)
        self.files = int(text) if text.strip().isdigit() else len(_own(os.listdir(folder)))

    def write(self, files: int) -> None:
        self.files = max(files, 0)
        os.pwrite(self._descriptor, b"%-20d\n" % self.files, 0)


def _own(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith((WHOLE, UNFINISHED))]


def _locked_at_once(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_if_unlocked(path: Path) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        if _locked_at_once(descriptor):
            path.unlink()
    finally:
        os.close(descriptor)
