"""How often this process asked its stores again: after no answer, after one that they are busy, after a damaged one."""

import threading

_lock = threading.Lock()
_total = 0


def count_retry() -> None:
    """A request is sent again."""
    global _total
    with _lock:
        _total += 1


class RetriesSince:
    """Counts from its making on."""

    def __init__(self) -> None:
        self._before = _total

    def take(self) -> int:
        """Retries since the last call, or since this was made."""
        now = _total
        found, self._before = now - self._before, now
        return found
