"""Noted roots whose store did not answer: named once, and asked again after pauses that grow.

A store that is gone costs each listing its time-out, and its line stays in the file of roots until a person removes it.
"""

import json
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import TypedDict

FIRST_PAUSE_S, LONGEST_PAUSE_S = 600.0, 3600.0


class _Silence(TypedDict):
    until: float
    pause_s: float


class SilentRoots:
    """What this machine knows of roots that do not answer; a file beside that of the roots.

    Args:
        file: JSON; one that is missing or damaged says nothing.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: dict[str, _Silence] = {}
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
            found = json.loads(file.read_text())
            self._known = {root: _Silence(until=each["until"], pause_s=each["pause_s"]) for root, each in found.items()}

    def is_paused(self, root: str) -> bool:
        """Whether it is not to be asked yet."""
        return root in self._known and time.time() < self._known[root]["until"]

    def failed(self, root: str) -> bool:
        """It did not answer. Returns whether that is new, which a person should see."""
        before = self._known.get(root)
        pause_s = FIRST_PAUSE_S if before is None else min(2 * before["pause_s"], LONGEST_PAUSE_S)
        self._known[root] = _Silence(until=time.time() + pause_s, pause_s=pause_s)
        self._write()
        return before is None

    def missing(self, root: str) -> bool:
        """Its folder does not exist, which costs nothing to ask again. Returns whether that is new."""
        if root in self._known:
            return False
        self._known[root] = _Silence(until=0.0, pause_s=0.0)
        self._write()
        return True

    def answered(self, root: str) -> None:
        """It is there."""
        if self._known.pop(root, None) is not None:
            self._write()

    def _write(self) -> None:
        """In one piece; a home that cannot be written to costs the memory alone."""
        with suppress(OSError):
            self._file.parent.mkdir(parents=True, exist_ok=True)
            written = self._file.with_name(f"{self._file.name}.{os.getpid()}")
            written.write_text(json.dumps(self._known))
            written.replace(self._file)
