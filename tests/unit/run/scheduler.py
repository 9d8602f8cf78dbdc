"""Runs several processes on one store, one request at a time, in the order and with the faults that a schedule says."""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from gmml_cluster.errors import GmmlError, StorageError
from tests.unit.run.memory import Crashed, MemoryStore

Fault = Literal["", "crash before", "crash after", "lost reply"]


class Process(threading.Thread):
    """A body that uses its own view of the store and stops before each request until it is let continue."""

    def __init__(self, body: Callable[[MemoryStore], None], store: MemoryStore) -> None:
        super().__init__(daemon=True)
        self._body, self._view = body, store.view(self._before, self._after)
        self._go, self._paused = threading.Semaphore(0), threading.Semaphore(0)
        self._fault: Fault = ""
        self.done = False
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._body(self._view)
        except (Crashed, GmmlError):
            pass  # dead, fenced, or without a store: nothing that the others may rely on
        except BaseException as error:
            self.error = error
        self.done = True
        self._paused.release()

    def launch(self) -> None:
        """Run to the first request."""
        self.start()
        self._paused.acquire()

    def step(self, fault: Fault = "") -> None:
        """Make the request it waits before, and run to the next."""
        self._fault = fault
        self._go.release()
        self._paused.acquire()
        if self.error is not None:
            raise self.error

    def _before(self, method: str, name: str) -> None:
        self._paused.release()
        self._go.acquire()
        if self._fault == "crash before":
            raise Crashed

    def _after(self, method: str, name: str) -> None:
        if self._fault == "crash after":
            raise Crashed
        if self._fault == "lost reply" and method == "create":
            raise StorageError(f"{name}: no answer")


def play(
    store: MemoryStore,
    bodies: Sequence[Callable[[MemoryStore], None]],
    schedule: Iterable[tuple[int, Fault]],
    check: Callable[[], None],
) -> None:
    """Let the processes make requests as scheduled, then in turn until all are done; `check` after each request."""
    processes = [Process(body, store) for body in bodies]
    try:
        for process in processes:
            process.launch()
        for number, fault in schedule:
            alive = [process for process in processes if not process.done]
            if not alive:
                break
            alive[number % len(alive)].step(fault)
            check()
        for process in processes:
            while not process.done:
                process.step()
                check()
    finally:
        for process in processes:
            while process.is_alive() and not process.done:
                process.step("crash before")
