"""What a command prints as a job, found again in its output: its lines have marks, as Ray writes lines of its own."""

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from gmml_cluster.progress import LINES, progress

OUT, ERR, PROGRESS = "gmml:out ", "gmml:err ", LINES


def mark_output() -> None:
    """Mark what this process prints from now on, by `OUT` and `ERR`, and have its progress printed."""
    os.environ["GMML_PROGRESS"] = "lines"
    for name, mark in (("stdout", OUT), ("stderr", ERR)):
        stream: Callable[..., Any] = io.TextIOWrapper
        setattr(sys, name, stream(io.BufferedWriter(Marked(1, mark)), "utf-8", line_buffering=True))


class Marked(io.RawIOBase):
    """Writes whole lines with a mark to a file descriptor."""

    def __init__(self, descriptor: int, mark: str) -> None:
        self._descriptor, self._mark, self._rest = descriptor, mark.encode(), b""

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        # Ray reports lost workers from a thread of its own, on stdout, which may be read as JSON
        mark = self._mark if threading.current_thread() is threading.main_thread() else ERR.encode()
        *lines, self._rest = (self._rest + bytes(data)).split(b"\n")
        for line in lines:
            os.write(self._descriptor, (b"" if line.startswith(PROGRESS.encode()) else mark) + line + b"\n")
        return len(data)


class MarkedOutput:
    """Shows the job's lines, and its progress as a bar.

    Attributes:
        any: whether there was a marked line.
    """

    def __init__(self, bars: ExitStack) -> None:
        self.any = False
        self._bars, self._of = bars, ""
        self._done = 0
        self._advance: Callable[[int], None] = _ignore

    def line(self, line: str) -> None:
        """Print a marked line where it belongs; others are Ray's own."""
        self.any = self.any or line.startswith((OUT, ERR, PROGRESS))
        if line.startswith(OUT):
            print(line.removeprefix(OUT), flush=True)
        elif line.startswith(ERR):
            print(line.removeprefix(ERR), file=sys.stderr)
        elif line.startswith(PROGRESS):
            with suppress(ValueError):
                self._progress(**json.loads(line.removeprefix(PROGRESS)))

    def _progress(self, what: str, done: int, total: int | None) -> None:
        if what != self._of:
            self._bars.close()
            self._of, self._done = what, 0
            self._advance = self._bars.enter_context(progress(what, total))
        self._advance(done - self._done)
        self._done = done


def _ignore(items: int) -> None:
    pass
