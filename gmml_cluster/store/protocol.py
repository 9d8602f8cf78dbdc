"""What a store offers: create-once, put, range reads, list and delete, on folders and object stores alike.

All access to runs and corpora goes through it. A store is thread-safe and may be used after a fork.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from typing import Protocol

from gmml_cluster.errors import Fault, StorageError

Put = Callable[[str, bytes], None]
"""Writes the object of a name; may be called by many threads."""

FORBIDDEN_PARTS = ("", ".", "..")


class AlreadyExists(StorageError):
    """The name exists already, with other bytes than were to be written."""


class NotFound(StorageError):
    """The name does not exist."""


@dataclass(frozen=True, order=True)
class Stat:
    """What a store knows of an object without reading it.

    Attributes:
        name: relative to the store it was asked of.
        size: bytes.
        version: changes whenever the content does: the ETag, or a file's mtime in nanoseconds; empty in a listing
            where the name is a link that leads nowhere.
    """

    name: str
    size: int
    version: str


@dataclass(frozen=True, order=True)
class Unfinished:
    """A write that was begun and has not ended: its writer is still at it, or was killed.

    Attributes:
        name: of the object; on a folder, of the temporary file beside it. Relative to the store it was asked of.
        upload: id of the multipart upload; empty on a folder.
        since: when it was begun or last written to, in seconds since 1970 by the store's clock.
    """

    name: str
    upload: str = ""
    since: float = 0.0


class Store(Protocol):
    """Objects by name below one URL. Names are relative, of parts joined by `/`, none of them empty, `.` or `..`.

    Every method raises StorageError where the store fails after all retries, `NotFound` and `AlreadyExists` among them.
    """

    @property
    def url(self) -> str:
        """The folder, or the URL of bucket and prefix, without a slash at its end."""
        ...

    def create(self, name: str, data: bytes) -> None:
        """Write the object if its name is free: of all processes that try, exactly one succeeds.

        Where the outcome is unknown (a lost reply) the object is read back: equal bytes are ours, so each body must
        contain a token that is drawn for it alone.

        Raises:
            AlreadyExists: another's object has the name.
        """
        ...

    def put(self, name: str, data: bytes | memoryview, *, private: bool = False) -> None:
        """Write the object whether or not it exists; readers see the old content or the new, never a part.

        Args:
            private: on a folder only the owner may read the file, at no time anybody else; without effect on object
                stores, whose buckets decide.
        """
        ...

    def put_many(self) -> AbstractContextManager[Put]:
        """Gives a function that does what `put` does, but all is surely stored only when the block ends.

        If the block fails, some objects may be there and others not. For small objects in a folder this is faster, as
        the disk is waited for once.
        """
        ...

    def put_file(self, name: str, path: str | PathLike[str]) -> None:
        """Write a local file's content, as `put` does."""
        ...

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        """The bytes from `start` on, at most `length` of them; fewer where the object ends.

        Raises:
            NotFound: there is no such object.
        """
        ...

    def stat(self, name: str) -> Stat:
        """Size and version.

        Raises:
            NotFound: there is no such object.
        """
        ...

    def list_objects(self, prefix: str = "") -> list[Stat]:
        """All objects whose names begin with the characters of `prefix`, at any depth, sorted by name.

        Links to folders are not followed.

        Raises:
            StorageError: the store does not answer, or a folder of it cannot be read.
        """
        ...

    def folders(self) -> list[str]:
        """The first parts of all names that have more than one, sorted, without reading what lies below them."""
        ...

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; names that do not exist are ignored."""
        ...

    def unfinished(self, prefix: str = "") -> list[Unfinished]:
        """Writes that have not ended, selected by prefix as in `list_objects`, which does not show them."""
        ...

    def discard(self, unfinished: Iterable[Unfinished]) -> None:
        """Remove what such writes left; those that have ended meanwhile are ignored."""
        ...

    def child(self, prefix: str) -> "Store":
        """The store below this one, under `prefix`."""
        ...


def checked(url: str, name: str) -> str:
    """The name itself, if it is below the store.

    Raises:
        StorageError: it is empty, absolute, or climbs out.
    """
    if any(part in FORBIDDEN_PARTS for part in name.split("/")):
        problem = f"name {name!r}; names are relative and have no empty, `.` or `..` part"
        raise StorageError(Fault(url, problem, "rename it"))
    return name
