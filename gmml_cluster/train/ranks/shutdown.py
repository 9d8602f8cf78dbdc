"""How a rank leaves: errors go to rank 0, rank 0 writes the attempt's end, and no rank leaves before it stands."""

import logging
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from gmml_cluster.errors import GmmlError, StorageError
from gmml_cluster.run.codes import FAILED, STORAGE
from gmml_cluster.store.requests import DEADLINE_S
from gmml_cluster.train.ranks.cluster_env import leave_s
from gmml_cluster.train.ranks.rendezvous import UNWRITTEN, KeyValueStore, RankInfo

_ECHO_S = 1.0
_LAST_WORDS_S = 3.0
_LOST_PEER = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "Timed out waiting",
    "NCCL",
    UNWRITTEN,
)

_log = logging.getLogger(__name__)


def describe(error: BaseException, place: RankInfo) -> dict[str, Any]:
    """What the log tells of an error: rank, host, kind (`own` or `lost_peer`), cause, message, traceback, time."""
    message = f"{type(error).__name__}: {error}"
    lost_peer = not isinstance(error, GmmlError) and any(mark in message for mark in _LOST_PEER)
    return {
        "rank": place.rank,
        "host": socket.gethostname(),
        "kind": "lost_peer" if lost_peer else "own",
        "cause": "lost" if lost_peer else "storage" if isinstance(error, StorageError) else "error",
        "message": message[:2000],
        "traceback": "".join(traceback.format_exception(error))[-8000:],
        "time": time.time(),
    }


def first_error(errors: list[dict[str, Any]]) -> dict[str, Any]:
    """The error that tells most: a rank's own before one that only says that a peer was lost, then the earliest."""
    return min(errors, key=lambda error: (error["kind"] == "lost_peer", error["time"]))


def _code(error: dict[str, Any]) -> int:
    """What a rank leaves with: where storage fails the `end` may be missing, and the code alone proves the cause."""
    return STORAGE if error["cause"] == "storage" else FAILED


@dataclass
class Leaving:
    """The way out of one rank.

    Attributes:
        board: connection used by the guardian's thread and, at the end, by the main thread.
        write_end: rank 0's; writes the attempt's `end` for this error.
        last_words: called right before the process ends, which waits 3 s for it at most.
    """

    place: RankInfo
    board: KeyValueStore
    write_end: Callable[[dict[str, Any]], None]
    last_words: Callable[[], None] = lambda: None

    def watch(self) -> None:
        """The guardian's: leave when rank 0 has ended the attempt or is gone; on rank 0, end it when a rank failed."""
        try:
            ended, failed = self.board.get("ended"), self.board.get("failed")
        except Exception as error:
            _log.error("rank 0 is gone (%s): this rank leaves at once", error)
            self._exit(FAILED)
        if self.place.rank == 0 and failed is not None and ended is None:
            self._end_failed([])
        if self.place.rank != 0 and ended is not None:
            self._acknowledge(ended)

    def fail(self, error: BaseException) -> NoReturn:
        """Tell this rank's error; the process ends when the attempt's `end` stands, or cannot be written."""
        told = describe(error, self.place)
        _log.error("rank %d failed\n%s", self.place.rank, told["traceback"])
        if self.place.rank == 0:
            self._end_failed([told])
        self._try(lambda: self.board.set(f"error/{self.place.rank}", told))
        self._try(lambda: self.board.set("failed", self.place.rank))
        self.leave(_code(told))

    def _end_failed(self, errors: list[dict[str, Any]]) -> NoReturn:
        time.sleep(_ECHO_S)
        others = [self.board.get(f"error/{rank}") for rank in range(1, self.place.ranks)]
        first = first_error(errors + [error for error in others if error is not None])
        self._try(lambda: self.write_end(first))
        self.leave(_code(first))

    def leave(self, code: int) -> NoReturn:
        """End this process; rank 0 tells the others first and leaves last, within the time of `site.leave_s`.

        The other ranks leave with rank 0's code, if they learn it. They wait as long as rank 0's `end` may take: an
        exit before it would have rank 0 killed.
        """
        if self.place.rank == 0:
            self._try(lambda: self.board.set("ended", code))
            others = range(1, self.place.ranks)
            self._await(lambda: all(self.board.get(f"left/{rank}") for rank in others) or None, leave_s)
            self._exit(code)
        ended = self._await(lambda: self.board.get("ended"), lambda: DEADLINE_S)
        self._acknowledge(code if ended is None else ended)

    def _acknowledge(self, code: int) -> NoReturn:
        self._try(lambda: self.board.set(f"left/{self.place.rank}", 1))
        self._exit(code)

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            _log.warning("rank %d could not say its last words: %s", self.place.rank, error)

    def _await(self, ask: Callable[[], Any], limit_s: Callable[[], float]) -> Any:
        """The first answer that is not None; None where there is none in time."""
        try:
            deadline = time.monotonic() + limit_s()
            while time.monotonic() < deadline:
                if (answer := ask()) is not None:
                    return answer
                time.sleep(0.05)
        except Exception as error:
            _log.warning("rank %d leaves without the others' word: %s", self.place.rank, error)
        return None

    def _exit(self, code: int) -> NoReturn:
        speaking = threading.Thread(target=self._try, args=(self.last_words,), daemon=True)
        speaking.start()
        speaking.join(_LAST_WORDS_S)
        sys.stderr.flush()
        os._exit(code)
