"""The store of a URL. The client of object stores is imported only where a URL needs it: it takes half a second."""

from os import PathLike

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.protocol import Store


def open_store(url: str | PathLike[str]) -> Store:
    """The store at a folder, a `file://` or an `s3://` URL; nothing is read or written yet.

    Raises:
        StorageError: this version has no store for the scheme, or what it needs is not installed.
    """
    text = str(url)
    scheme = text.split("://", 1)[0] if "://" in text else "file"
    if scheme == "file":
        return PosixStore(text.removeprefix("file://"))
    if scheme == "s3":
        from gmml_cluster.store.s3 import S3Store

        return S3Store(text)
    raise StorageError(Fault(text, f"no store for {scheme!r}; folders, file:// and s3:// are known", "use one of them"))
