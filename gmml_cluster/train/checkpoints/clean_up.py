"""Deletes what need not stay behind a checkpoint, beside the training and its saves."""

import logging
import threading
from collections.abc import Callable

from gmml_cluster.errors import Fenced, StorageError

_log = logging.getLogger(__name__)


class CleanUp:
    """Works in a thread of its own, so that no save waits for it.

    While a store does not answer each of its requests is retried for minutes, and the checkpoint that follows is
    worth more than the space. One is at work at a time; what is asked for meanwhile is done after it.

    Args:
        work: what is done after each checkpoint.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work, self._asked, self._lock = work, 0, threading.Lock()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def ask(self) -> None:
        """Have it done once more, behind what is done now.

        Raises:
            Exception: a time before failed by a defect rather than by the store.
        """
        if self._error is not None:
            raise self._error
        with self._lock:
            self._asked += 1
            if self._asked > 1:
                return
            self._thread = threading.Thread(target=self._run, name="clean-up", daemon=True)
        self._thread.start()

    def wait(self, most_s: float) -> None:
        """Until nothing is left to do, or for so long."""
        if self._thread is not None:
            self._thread.join(most_s)

    def _run(self) -> None:
        while True:
            asked = self._asked
            try:
                self._work()
            except StorageError as error:
                _log.warning("%s; what was to be deleted goes after the next checkpoint", error)
            except Fenced as fault:
                _log.info("%s; it deletes what is left", fault)
            except Exception as error:
                self._error = error
            with self._lock:
                if self._asked == asked:
                    self._asked = 0
                    return
