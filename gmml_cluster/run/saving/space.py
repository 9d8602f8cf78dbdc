"""Room for checkpoints where a run root lies on a disk; object stores have no figure to ask for."""

import os
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
    folder = Path(url.removeprefix("file://")).absolute()
    found = os.statvfs(next(parent for parent in (folder, *folder.parents) if parent.exists()))
    return found.f_bavail * found.f_frsize


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
