"""Room for checkpoints where a run root lies on a disk; object stores have no figure to ask for."""

import ctypes
import errno
import os
import tempfile
from contextlib import suppress
from pathlib import Path

from gmml_cluster.errors import Fault
from gmml_cluster.store.open import scheme_of

HINT = "free space there (gmml rm deletes runs), ask for more, or lower checkpoint.keep"


def free_bytes(url: str) -> int | None:
    """What this user may still write below a folder, or where it will be made; None for an object store.

    A quota counts as far as the file system reports it so.

    Raises:
        OSError: the disk does not answer.
    """
    if scheme_of(url) != "file":
        return None
    found = os.statvfs(_existing(url))
    return found.f_bavail * found.f_frsize


def _existing(url: str) -> Path:
    folder = Path(url.removeprefix("file://")).absolute()
    return next(parent for parent in (folder, *folder.parents) if parent.exists())


def room_lacking(url: str, checkpoint_bytes: int, count: int = 1) -> Fault | None:
    """What is wrong where this many checkpoints do not fit on the disk; None where they do or nobody knows.

    Args:
        url: root of the run.
        checkpoint_bytes: of one.
        count: of those still to come before an old one goes.
    """
    try:
        free = free_bytes(url)
    except OSError:
        return None  # whoever writes there says what is wrong with the disk
    if free is None or free >= count * checkpoint_bytes:
        return None
    what = "the next checkpoint takes" if count == 1 else f"{count} checkpoints take"
    return Fault(url, f"{free / 1e9:,.2f} GB are free, and {what} {count * checkpoint_bytes / 1e9:,.2f} GB", HINT)


def room_refused(url: str, checkpoint_bytes: int) -> Fault | None:
    """What is wrong where the disk has the room of one checkpoint but not for this user, as a quota may show nowhere.

    A file of that size is set aside without being written, and is gone when this returns; a file system that cannot do
    so is not asked.

    Args:
        url: root of the run.
        checkpoint_bytes: of one.
    """
    if scheme_of(url) != "file":
        return None
    try:
        with tempfile.TemporaryFile(dir=_existing(url)) as file:
            _set_aside(file.fileno(), checkpoint_bytes)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return None
        said = os.strerror(error.errno).lower()
        return Fault(
            url, f"a checkpoint takes {checkpoint_bytes / 1e9:,.2f} GB, and the disk refuses them: {said}", HINT
        )
    return None


def _set_aside(descriptor: int, size: int) -> None:
    """`fallocate`, as the standard library's writes block by block where a file system cannot reserve.

    Raises:
        OSError: there is no room, or no such call.
    """
    with suppress(AttributeError):  # no Linux
        if ctypes.CDLL(None, use_errno=True).fallocate(descriptor, 0, ctypes.c_int64(0), ctypes.c_int64(size)):
            raise OSError(ctypes.get_errno(), "")
