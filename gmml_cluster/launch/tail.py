"""The end of what a process printed. Weeks of output are never held in memory for the sake of one line."""

import os
from collections import deque
from itertools import islice
from pathlib import Path
from typing import BinaryIO

LAST_BYTES, LAST_LINES = 2**16, 10_000
_CHARACTERS = 300


def tail_of(file: BinaryIO) -> str:
    """The last 64 KiB of an open file, stripped; the first line of them may lack its beginning."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
    return file.read().decode(errors="replace").strip()


def last_line(printed: str) -> str:
    """What is quoted of an output: its last line, or the first 300 characters of that."""
    return printed.rpartition("\n")[2][:_CHARACTERS]


def last_lines(path: Path, *, skip: int = 0) -> list[str]:
    """At most the last 10,000 lines of a file, without its first `skip`; none where it cannot be read."""
    try:
        with path.open(errors="replace", newline="\n") as file:
            return [line.removesuffix("\n") for line in deque(islice(file, skip, None), LAST_LINES)]
    except OSError:
        return []
