"""Reads whose content can be checked: one bad answer of a store is not yet a damaged object."""

import logging
from collections.abc import Callable
from time import sleep
from typing import TypeVar

from gmml_cluster.store.retries import count_retry

T = TypeVar("T")
READS = 4
_PAUSE_S = 0.2

_log = logging.getLogger(__name__)


def read_verified(read: Callable[[], T], check: Callable[[T], None], *, pause_s: float = _PAUSE_S) -> T:
    """What `read` returns once `check` accepts it; a refused answer is read again, 4 reads in all.

    Object stores and the proxies before them answer with flipped or missing bytes once in a while, and range reads
    carry no checksum of their own. Only an answer that stays wrong says that the object itself is damaged.

    Args:
        read: fetches the content at every call; not cached.
        check: raises where the content is not what its checksum, length or format promises.
        pause_s: seconds before the second read; doubled before each further one.

    Raises:
        Exception: what `check` raised the last time; what `read` raises is not caught.
    """
    refused: Exception | None = None
    for number in range(1, READS + 1):
        content = read()
        try:
            check(content)
        except Exception as error:
            if number == READS:
                raise
            refused = error
            count_retry()
            sleep(pause_s * 2 ** (number - 1))
        else:
            break
    if refused is not None:  # one that stays wrong is raised, and a warning of each read would repeat it
        _log.warning("%s; read %d of %d was right", refused, number, READS)
    return content
