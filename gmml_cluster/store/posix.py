"""A store in a folder, on a local disk or a shared file system.

A name appears complete or not at all: the bytes are written to a temporary file beside it and fsynced, then linked
(create-once) or renamed (put), and the folder is fsynced. Files and folders take the mode of the store's top folder.
"""

import ctypes
import errno
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISDIR
from typing import BinaryIO

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.store.protocol import AlreadyExists, NotFound, Put, Stat, Unfinished, checked
from gmml_cluster.store.rehearsal import rehearsal

TEMPORARY = ".gmml-writing-"
_LIBC = ctypes.CDLL(None, use_errno=True)  # Python has `os.sync` alone, which waits for every mounted disk
_COPY_BYTES = 8 * 2**20
_FOLDER_TRIES = 10
_FULL = "the disk or your quota is full; free space there (gmml rm deletes runs), or ask for more"
_REFUSED = "the folder must be readable and writable here; fix its permissions, or the mount"
_NO_SUCH = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


class OpenFile:
    """A file that stays open until nobody refers to it: a read that is under way when it is let go ends well."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, start: int, length: int) -> bytes:
        """Bytes from `start` on; fewer where the file ends. Threads may read at once.

        Raises:
            OSError: it cannot be read, or its server has forgotten that it was opened.
        """
        data = os.pread(self._descriptor, length, start)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), start + len(data))):
            data += more
        return data

    def __del__(self) -> None:
        with suppress(AttributeError):  # it could not be opened
            os.close(self._descriptor)


class PosixStore:
    """Objects as files below a folder, which is created with the first object.

    Args:
        folder: relative folders are resolved at once; `~` is the home folder.
        top: folder whose mode the files take; the folder itself where it is None.
    """

    def __init__(self, folder: str | os.PathLike[str], top: Path | None = None) -> None:
        self._folder = Path(os.path.abspath(os.path.expanduser(folder)))
        self._top = top or self._folder

    @property
    def url(self) -> str:
        return str(self._folder)

    def create(self, name: str, data: bytes) -> None:
        self._write(name, lambda file: _write_all(file, data), self._link)

    def put(self, name: str, data: bytes | memoryview, *, private: bool = False) -> None:
        self._write(name, lambda file: _write_all(file, data), os.replace, private=private)

    @contextmanager
    def put_many(self) -> Iterator[Put]:
        written: list[tuple[Path, Path]] = []

        def put(name: str, data: bytes) -> None:
            path = self._path(name)
            try:
                temporary = self._temporary(path.parent, lambda file: _write_all(file, data), sync=False)
            except OSError as error:
                raise self._failed(name, error) from error
            written.append((temporary, path))

        try:
            yield put
            self._publish(written)
        finally:
            for temporary, _ in written:
                temporary.unlink(missing_ok=True)

    def put_file(self, name: str, path: str | os.PathLike[str]) -> None:
        self._write(name, lambda file: _copy(path, file), os.replace)

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        try:
            with open(self._path(name), "rb") as file:
                file.seek(start)
                return file.read(-1 if length is None else length)
        except OSError as error:
            raise self._failure(name, error) from error

    def open_to_read(self, name: str) -> "OpenFile":
        """The file, for reads of many of its parts.

        Raises:
            NotFound: there is no such file.
            StorageError: it cannot be opened.
        """
        try:
            return OpenFile(self._path(name))
        except OSError as error:
            raise self._failure(name, error) from error

    def stat(self, name: str) -> Stat:
        try:
            found = os.stat(self._path(name))
            if S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        except OSError as error:
            raise self._failure(name, error) from error
        return Stat(name, found.st_size, str(found.st_mtime_ns))

    def list_objects(self, prefix: str = "") -> list[Stat]:
        # names are sorted, not stats: comparing those took most of the time that a hundred thousand of them need
        return list(self._stats(sorted(name for name in self._names(prefix) if not _is_temporary(name))))

    def folders(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self._folder) if entry.is_dir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._failure("", error) from error

    def delete(self, names: Iterable[str]) -> None:
        for name in names:
            path = self._path(name)
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise self._failure(name, error) from error
            self._prune(path.parent)

    def unfinished(self, prefix: str = "") -> list[Unfinished]:
        found = []
        for name in self._names(prefix):
            if _is_temporary(name):
                with suppress(FileNotFoundError):  # it ended between the listing and now
                    found.append(Unfinished(name, since=self._path(name).lstat().st_mtime))
        return sorted(found)

    def discard(self, unfinished: Iterable[Unfinished]) -> None:
        self.delete(write.name for write in unfinished)

    def child(self, prefix: str) -> "PosixStore":
        return PosixStore(self._path(prefix), self._top)

    def _path(self, name: str) -> Path:
        return self._folder / checked(self.url, name)

    def _names(self, prefix: str) -> Iterator[str]:
        """Files that the prefix reaches; links to folders are not followed, so that no delete leaves the store.

        Raises:
            StorageError: a folder that the prefix reaches cannot be read.
        """
        # strings, not paths: pathlib took nine tenths of the time that a listing of ten thousand files needs
        store = str(self._folder).rstrip("/") + "/"
        for parent, folders, files in os.walk(store + prefix.rpartition("/")[0], onerror=_unlisted):
            below = f"{parent}/".removeprefix(store).lstrip("/")
            folders[:] = [name for name in folders if f"{below}{name}".startswith(prefix)]
            yield from (name for file in files if (name := f"{below}{file}").startswith(prefix))

    def _stats(self, names: Iterable[str]) -> Iterator[Stat]:
        for name in names:
            try:
                found = os.stat(f"{self._folder}/{name}")
            except OSError as error:
                if error.errno not in _NO_SUCH:
                    raise self._failure(name, error) from error
                if self._path(name).is_symlink():  # to nothing; otherwise it was deleted since it was listed
                    yield Stat(name, 0, "")
            else:
                yield Stat(name, found.st_size, str(found.st_mtime_ns))

    def _write(
        self,
        name: str,
        fill: Callable[[BinaryIO], None],
        publish: Callable[[Path, Path], None],
        *,
        private: bool = False,
    ) -> None:
        path = self._path(name)
        try:
            temporary = self._temporary(path.parent, fill, private=private)
            try:
                publish(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync(path.parent)
        except FileExistsError as error:
            raise AlreadyExists(Fault(str(path), "exists already; it is written once", "read it instead")) from error
        except OSError as error:
            raise self._failed(name, error) from error

    def _publish(self, written: Sequence[tuple[Path, Path]]) -> None:
        """Give files their names, once all their bytes are on the disk."""
        try:
            _sync_all({path.parent for _, path in written})
            for temporary, path in written:
                os.replace(temporary, path)
            for folder in {path.parent for _, path in written}:
                _sync(folder)
        except OSError as error:
            raise self._failed("", error) from error

    def _temporary(
        self, folder: Path, fill: Callable[[BinaryIO], None], *, private: bool = False, sync: bool = True
    ) -> Path:
        path = folder / f"{TEMPORARY}{secrets.token_hex(8)}"
        with self._opened(path) as file:
            try:
                os.fchmod(file.fileno(), 0o600 if private else self._mode() & 0o666)  # before a secret is in it
                fill(file)
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        return path

    def _opened(self, path: Path) -> BinaryIO:
        """The new file. Another's `delete` may remove the empty folder in between; it is then made again."""
        for _ in range(_FOLDER_TRIES):
            self._make(path.parent)
            with suppress(FileNotFoundError):
                return open(path, "xb")
        return open(path, "xb")

    def _make(self, folder: Path) -> None:
        """Make the folder and its parents, and fsync each parent, so that a crash of the node cannot take them back."""
        if folder.is_dir():
            return
        self._make(folder.parent)
        with suppress(FileExistsError, FileNotFoundError):
            folder.mkdir()
            if self._top in folder.parents:
                folder.chmod(self._mode())
            _sync(folder.parent)

    def _mode(self) -> int:
        return self._top.stat().st_mode & 0o2777

    def _link(self, temporary: Path, path: Path) -> None:
        """Give the file its name.

        On NFS the reply to a link may be lost: the kernel's retry is then answered EEXIST although the name is ours, as
        the file's count of links shows.
        """
        try:
            os.link(temporary, path)
        except FileExistsError:
            if temporary.stat().st_nlink != 2:
                raise

    def _prune(self, folder: Path) -> None:
        """Remove folders that became empty, below the store's own."""
        with suppress(OSError):  # not empty, or another removed it first
            while self._folder in folder.parents:
                folder.rmdir()
                folder = folder.parent

    def _failure(self, name: str, error: OSError) -> StorageError:
        if error.errno in _NO_SUCH:
            where = f"{self._folder}/{name}"
            return NotFound(Fault(where, "does not exist; it was deleted or never written", f"list {self._folder}"))
        return self._failed(name, error)

    def _failed(self, name: str, error: OSError) -> StorageError:
        hint = _FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else _REFUSED
        return StorageError(Fault(f"{self._folder}/{name}", error.strerror or str(error), hint))


def _unlisted(error: OSError) -> None:
    if error.errno not in _NO_SUCH:  # a folder may vanish while its parent is listed
        raise StorageError(Fault(str(error.filename), error.strerror or str(error), _REFUSED)) from error


def _write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    rehearsal.write()
    file.write(data)


def _copy(path: str | os.PathLike[str], file: BinaryIO) -> None:
    with open(path, "rb") as source:
        while block := source.read(_COPY_BYTES):
            file.write(block)


def _is_temporary(name: str) -> bool:
    return name.rpartition("/")[2].startswith(TEMPORARY)


def _sync_all(folders: Iterable[Path]) -> None:
    """Wait until the disks have all that was written where these folders are.

    A hundred files take as long as one: each `fsync` is a transaction of the file system's journal, of a millisecond.
    """
    for folder in folders:
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            if _LIBC.syncfs(descriptor):
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(folder))
        finally:
            os.close(descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
