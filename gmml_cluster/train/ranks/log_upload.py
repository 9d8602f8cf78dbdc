"""Numbered parts of an attempt's logs and metrics: lines are held in memory and published every so often."""

import logging
import threading
import time
from dataclasses import dataclass, field

from gmml_cluster.store.protocol import Store

PUBLISH_S = 30.0
FIRST_PUBLISH_S = 2.0  # soon, so that `gmml logs -f` on another machine shows that the run has begun


@dataclass
class Parts:
    """Lines that appear in the run root as `<stem>-<number>.<suffix>`.

    Attributes:
        stem: name of the parts within the run root, without number and suffix.
    """

    store: Store
    stem: str
    suffix: str
    _lines: list[str] = field(default_factory=list)
    _number: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, line: str) -> None:
        """Hold a line for the next part."""
        self._lines.append(line)

    def publish(self) -> None:
        """Write what is held as the next part; nothing where nothing is held. Lines stay held if the store fails."""
        with self._lock:
            held = len(self._lines)
            if not held:
                return
            text = "\n".join(self._lines[:held]) + "\n"
            self.store.put(f"{self.stem}-{self._number:06d}.{self.suffix}", text.encode())
            self._number += 1
            del self._lines[:held]


class PartsHandler(logging.Handler):
    """Sends log records into parts."""

    def __init__(self, parts: Parts) -> None:
        super().__init__()
        self._parts = parts

    def emit(self, record: logging.LogRecord) -> None:
        """Hold the formatted record."""
        self._parts.add(self.format(record))


def log_format(rank: int) -> logging.Formatter:
    """One line a record: UTC time, rank, level, message."""
    formatter = logging.Formatter(f"%(asctime)s rank {rank} %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    return formatter
