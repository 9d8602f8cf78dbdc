"""The store of a URL. The client of object stores is imported only where a URL needs it: it takes half a second."""

import re
from os import PathLike
from typing import Literal

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.protocol import Store

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")


def scheme_of(url: str) -> Literal["file", "s3"]:
    """What kind of store a URL or path means: `file` for paths and `file://`, `s3` for `s3://`.

    `gs://b`, `S3://b` and `s3:/b` are refused here: taken for paths, they would be folders below the current one.

    Raises:
        SpecError: the URL is empty, has any other scheme, or names no bucket.
    """
    if not url:
        raise SpecError(Fault("''", "an empty URL; it would mean the current folder", "write . for that"))
    found = _SCHEME.match(url)
    if found is None or url.startswith("file://"):
        return "file"
    if url.startswith("s3://"):
        if not url[len("s3://") :].partition("/")[0]:
            raise SpecError(Fault(url, "names no bucket; an S3 store is s3://bucket or s3://bucket/prefix", "name one"))
        return "s3"
    rule = "paths, file:// and s3:// are known, in small letters and with two slashes"
    raise SpecError(Fault(url, f"no store for {found[1]!r}; {rule}", f"use one of them, or ./{url} for a path"))


def open_store(url: str | PathLike[str]) -> Store:
    """The store at a folder, a `file://` or an `s3://` URL; nothing is read or written yet.

    Raises:
        SpecError: this version has no store for the URL.
    """
    text = str(url)
    if scheme_of(text) == "file":
        return PosixStore(text.removeprefix("file://"))
    from gmml_cluster.store.s3 import S3Store

    return S3Store(text)
