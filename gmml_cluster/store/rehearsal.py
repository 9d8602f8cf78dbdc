"""Faults that a drill makes: for a while every write to a folder fails, or every request to an object store."""

import errno
import os
import time


class Rehearsal:
    """The faults of this process; none until one of `fill` and `cut` is called."""

    def __init__(self) -> None:
        self._full_until = self._cut_until = float("-inf")

    def fill(self, seconds: float) -> None:
        """From now on folders are full, for so long."""
        self._full_until = time.monotonic() + seconds

    def cut(self, seconds: float) -> None:
        """From now on folders cannot be written to and object stores do not answer, for so long."""
        self._cut_until = time.monotonic() + seconds

    def write(self) -> None:
        """Called before a file is written.

        Raises:
            OSError: as a file system raises it.
        """
        if time.monotonic() < self._full_until:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if time.monotonic() < self._cut_until:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    def request(self) -> None:
        """Called before a request is sent.

        Raises:
            ConnectionResetError: as a client raises it.
        """
        if time.monotonic() < self._cut_until:
            raise ConnectionResetError(errno.ECONNRESET, "cut off by a drill")


rehearsal = Rehearsal()
