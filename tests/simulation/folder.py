"""A virtual shared file system under the real `PosixStore`: what the store asks of `os`, `open` and `Path`, no more."""

import errno
import io
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from tests.simulation.weather import Exchange
from tests.simulation.world import here

_DESCRIPTOR = 1000


@dataclass(eq=False)
class Inode:
    """A file's content, however many names it has."""

    data: bytes = b""
    links: int = 1
    time: float = 0.0
    mode: int = 0o644


@dataclass
class Files:
    """Names of files, and folders.

    Attributes:
        watch: called with path, old bytes and new bytes (None: no file) before each change of a name.
    """

    exchange: Exchange | None = None
    names: dict[str, Inode] = field(default_factory=dict)
    folders: dict[str, int] = field(default_factory=lambda: {"/": 0o755})
    watch: Callable[[str, bytes | None, bytes | None], None] = lambda path, old, new: None

    def call(self, what: str, path: str, act: Callable[[], Any]) -> Any:
        """One call that reaches the file server."""
        assert self.exchange is not None
        return self.exchange.send(what, path.rsplit("/", 3)[-1] if what == "walk" else path, act)

    def inode(self, path: str) -> Inode:
        if path not in self.names:
            code = errno.EISDIR if path in self.folders else errno.ENOENT
            raise OSError(code, os.strerror(code), path)
        return self.names[path]

    def set_name(self, path: str, inode: Inode | None) -> None:
        old = self.names.pop(path, None)
        try:
            self.watch(path, old and old.data, inode and inode.data)
        finally:
            if old is not None:
                old.links -= 1
            if inode is not None:
                self.names[path] = inode

    def link(self, source: str, path: str) -> None:
        inode = self.inode(source)
        if path in self.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        inode.links += 1
        self.set_name(path, inode)

    def replace(self, source: str, path: str) -> None:
        inode = self.inode(source)
        inode.links += 1
        self.set_name(path, inode)
        self.set_name(source, None)

    def unlink(self, path: str) -> None:
        self.inode(path)
        self.set_name(path, None)

    def read(self, path: str) -> bytes:
        return self.inode(path).data

    def stat(self, path: str) -> os.stat_result:
        if path in self.folders:
            return os.stat_result((stat.S_IFDIR | self.folders[path], 0, 0, 1, 0, 0, 0, 0, 0, 0))
        inode = self.inode(path)
        moment = int(inode.time)
        values = (stat.S_IFREG | inode.mode, id(inode), 0, inode.links, 0, 0, len(inode.data), moment, moment, moment)
        return os.stat_result(values)

    def scan(self, path: str) -> tuple[list[str], list[str]]:
        if path not in self.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        below = path.rstrip("/") + "/"
        inside = [
            name[len(below) :] for name in (*self.folders, *self.names) if name.startswith(below) and name != below
        ]
        folders = sorted({n for n in inside if "/" not in n and n and below + n in self.folders})
        return folders, sorted(n for n in inside if n and "/" not in n and below + n in self.names)

    def rmdir(self, path: str) -> None:
        folders, files = self.scan(path)
        if folders or files:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        del self.folders[path]

    def mkdir(self, path: str) -> None:
        if path in self.folders or path in self.names:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if str(PurePosixPath(path).parent) not in self.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.folders[path] = 0o755


files = Files()
"""The one file system of the history that runs; `install` of `product.py` gives each history its own."""


def fresh() -> Files:
    """Begin with nothing."""
    files.names, files.folders = {}, {"/": 0o755}
    files.watch = Files.watch
    return files


class Path(PurePosixPath):
    """Of `pathlib.Path` what the store uses."""

    def stat(self) -> os.stat_result:
        return files.stat(str(self))

    lstat = stat

    def is_dir(self) -> bool:
        return str(self) in files.folders

    def is_symlink(self) -> bool:
        return False

    def mkdir(self) -> None:
        files.mkdir(str(self))

    def chmod(self, mode: int) -> None:
        files.folders[str(self)] = mode

    def rmdir(self) -> None:
        files.rmdir(str(self))

    def unlink(self, *, missing_ok: bool = False) -> None:
        if missing_ok and str(self) not in files.names:
            return
        if self.name.startswith(".gmml-writing-"):  # of the writer alone: nobody sees when it goes
            files.unlink(str(self))
            return

        def act() -> None:
            if str(self) in files.names or not missing_ok:
                files.unlink(str(self))

        files.call("unlink", str(self), act)


class _Written(io.BytesIO):
    """A file that is being written; what it holds is there when it is flushed."""

    def __init__(self, inode: Inode) -> None:
        super().__init__()
        self._inode = inode

    def fileno(self) -> int:
        return _DESCRIPTOR

    def flush(self) -> None:
        if not self.closed:
            self._inode.data = self.getvalue()


def open_file(path: Path, mode: str) -> io.BytesIO:
    """Of the function `open` what the store uses."""
    name = str(path)
    if mode == "rb":
        return io.BytesIO(files.call("read", name, lambda: files.read(name)))
    if str(path.parent) not in files.folders:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), name)
    inode = Inode(time=here().now)
    files.names[name] = inode
    return _Written(inode)


class System:
    """Of the module `os` what the store uses."""

    path, strerror, O_RDONLY, PathLike = os.path, staticmethod(os.strerror), os.O_RDONLY, os.PathLike

    @staticmethod
    def link(source: Path, path: Path) -> None:
        try:
            files.call("link", str(path), lambda: files.link(str(source), str(path)))
        except TimeoutError as error:
            # the kernel of an NFS client asks again where a reply was lost, and then finds the name taken by itself
            if files.names.get(str(path)) is not files.names.get(str(source)):
                raise
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path)) from error

    @staticmethod
    def replace(source: Path, path: Path) -> None:
        files.call("rename", str(path), lambda: files.replace(str(source), str(path)))

    @staticmethod
    def stat(path: Any) -> os.stat_result:
        return files.stat(str(path))

    @staticmethod
    def fchmod(descriptor: int, mode: int) -> None:
        pass

    @staticmethod
    def fsync(descriptor: int) -> None:
        pass

    @staticmethod
    def open(path: Path, flags: int) -> int:
        if str(path) not in files.folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
        return _DESCRIPTOR

    @staticmethod
    def close(descriptor: int) -> None:
        pass

    @staticmethod
    def walk(top: str, onerror: Callable[[OSError], None]) -> Iterator[tuple[str, list[str], list[str]]]:
        try:
            folders, names = files.call("walk", top, lambda: files.scan(top.rstrip("/") or "/"))
        except OSError as error:
            onerror(error)
            return
        yield top, folders, names
        for folder in folders:
            yield from System.walk(f"{top.rstrip('/')}/{folder}", onerror)

    @staticmethod
    def scandir(path: Path) -> list["_Entry"]:
        return [_Entry(name) for name in files.call("scan", str(path), lambda: files.scan(str(path)))[0]]


@dataclass(frozen=True)
class _Entry:
    name: str

    def is_dir(self) -> bool:
        return True


def refused(what: str) -> BaseException:
    """A file server in trouble."""
    code = here().random.choice((errno.EIO, errno.ESTALE))
    return OSError(code, os.strerror(code))


def unanswered() -> BaseException:
    """On a soft mount; the call may have acted, or an NFS client repeated one whose reply was lost."""
    code = here().random.choice((errno.EIO, errno.ETIMEDOUT))
    return OSError(code, os.strerror(code))
