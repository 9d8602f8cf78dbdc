"""Files that are no plain tars, as tars with checked indexes in a scratch folder that all workers reach.

What stands there already, of an earlier command, is not made again.
"""

import bz2
import gzip
import lzma
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.index import ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile, store_of
from gmml_cluster.data.corpus.tar import BLOCK_BYTES, RangeFile
from gmml_cluster.data.reader.reads import read_range
from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.store.open import scheme_of
from gmml_cluster.store.protocol import NotFound

_OPENERS: Mapping[str, Any] = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}


def unpack_archive(file: ShardFile, scratch: str, name: str) -> tuple[str, ShardIndex]:
    """URL and index of the tar that an archive holds.

    Raises:
        DataError: the archive is damaged.
        StorageError: a store does not answer, or there is no room.
    """
    return tar_in_scratch(scratch, name, file.image, partial(_decompress, file))


def tar_in_scratch(scratch: str, name: str, image: str, write: Callable[[Path], None]) -> tuple[str, ShardIndex]:
    """URL and checked index of a tar in the scratch folder; `write` makes it where it is not there yet.

    Raises:
        DataError: what was written is no tar.
        StorageError: a store does not answer, or there is no room.
    """
    store, url = store_of(scratch), f"{scratch.rstrip('/')}/{name}"
    try:
        found = store.stat(name)
        standing = index.find(ShardFile(url, found.size, found.version, image), None)
    except NotFound:
        standing = None
    if standing is not None:
        return url, standing
    with workspace(scratch) as folder:
        path = Path(folder, name)
        write(path)
        made = index.build(ShardFile(str(path), path.stat().st_size, "", image), checked=True)
        store.put_file(name, path)
    found = store.stat(name)
    made = index.with_version(made, found.version)
    index.put(made, ShardFile(url, found.size, found.version, image), None)
    return url, made


@contextmanager
def workspace(destination: str) -> Iterator[str]:
    """A folder for files on their way to a destination: inside it, where that is a folder, else in TMPDIR."""
    hidden = None
    if scheme_of(destination) == "file":
        hidden = os.path.join(destination.removeprefix("file://"), ".making")
        os.makedirs(hidden, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=hidden, prefix="gmml-") as folder:
            yield folder
    except OSError as error:
        where = str(error.filename or hidden or tempfile.gettempdir())
        raise StorageError(Fault(where, error.strerror or str(error), "free space there, or name another")) from error


def _decompress(file: ShardFile, path: Path) -> None:
    source = RangeFile(partial(read_range, file.url), file.size, BLOCK_BYTES)
    opened = next(opener for suffix, opener in _OPENERS.items() if file.name.endswith((f".{suffix}", f".t{suffix}")))
    try:
        with opened(source) as content, open(path, "wb") as plain:
            shutil.copyfileobj(content, plain, BLOCK_BYTES)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(Fault(file.url, f"is damaged or cut short ({error})", "copy it again")) from error
