"""Independent tasks on several workers: processes of this machine, or whatever else keeps this small protocol.

A task must be safe to do twice: a worker may die after a task's last write and before its result is known.
"""

import multiprocessing
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import chain, islice
from multiprocessing.process import BaseProcess
from pathlib import Path
from signal import SIG_IGN, SIGINT, SIGTERM, Signals, signal
from typing import Protocol, TypeVar

from gmml_cluster.errors import Fault, WorkerLost

_AHEAD = 2
"""Tasks handed out for each worker, so that none waits for its next one."""
_SHOWN = 3
_UNKNOWN = 255
CURE = "what is done is kept: repeat the command, with fewer --workers or smaller shards if memory was short"


class Named(Protocol):
    """A task; picklable."""

    @property
    def name(self) -> str:
        """What it makes, for messages."""
        ...


T = TypeVar("T", bound=Named)
R = TypeVar("R")


class Workers(Protocol):
    """What carries out tasks."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results in the order of completion; tasks are taken from the iterable as workers become free.

        Args:
            function: picklable, as are its results and what it raises.
            tasks: in any number; only some for each worker are in memory.

        Raises:
            WorkerLost: a worker died; names what it was at.
            Exception: what the function raised; no further task is begun.
        """
        ...


class InProcess:
    """One worker: this process."""

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        return map(function, tasks)


class Processes:
    """Processes of this machine, started when there are tasks and gone with this process, even if it is killed.

    Args:
        count: how many.
        preload: modules that are imported once and shared by all of them.
    """

    def __init__(self, count: int, preload: tuple[str, ...] = ()) -> None:
        self._count, self._preload = count, preload

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        left = iter(tasks)
        first = list(islice(left, max(self._count, 2)))
        if len(first) < 2:  # a process takes a second to start
            yield from map(function, first)
            return
        # not fork: the progress bar and the clients of stores have threads, whose locks a fork would copy as held
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([*self._preload])
        with tempfile.TemporaryDirectory(prefix="gmml-workers-") as notes:
            pool = ProcessPoolExecutor(min(self._count, len(first)), context, _begin, (dict(os.environ),))
            started: set[BaseProcess] = set()
            before = set(multiprocessing.active_children())
            try:
                yield from _completed(pool, partial(_noting, notes, function), chain(first, left), self._count, started)
            except BrokenProcessPool as error:
                raise WorkerLost(_fault(started - before, Path(notes))) from error
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in set(multiprocessing.active_children()) - before:
                    process.kill()  # they hold nothing: a task publishes what it made in one step
                    process.join()
                pool.shutdown()


def workers_of(count: int | None, preload: tuple[str, ...] = ()) -> Workers:
    """Workers on this machine; None takes one for each core that this process may use."""
    number = count or len(os.sched_getaffinity(0))
    return InProcess() if number == 1 else Processes(number, preload)


def _completed(
    pool: ProcessPoolExecutor,
    function: Callable[[T], R],
    tasks: Iterator[T],
    count: int,
    started: set[BaseProcess],
) -> Iterator[R]:
    running: set[Future[R]] = {pool.submit(function, task) for task in islice(tasks, _AHEAD * count)}
    while running:
        started |= set(multiprocessing.active_children())
        done, running = wait(running, return_when=FIRST_COMPLETED)
        running |= {pool.submit(function, task) for task in islice(tasks, len(done))}
        for future in done:
            yield future.result()


def _noting(notes: str, function: Callable[[T], R], task: T) -> R:
    """Do a task; what a process is at can be read after its death."""
    Path(notes, str(os.getpid())).write_text(task.name)
    return function(task)


def _fault(processes: set[BaseProcess], notes: Path) -> Fault:
    """Who died first: the pool ends the others by SIGTERM."""
    ended = {process.pid: process.exitcode for process in processes}
    killed = [pid for pid, code in ended.items() if code not in (None, 0, -SIGTERM)] or list(ended)
    at = sorted(note.read_text() for pid in killed if (note := notes / str(pid)).exists())
    codes = sorted({code for pid in killed if (code := ended[pid]) is not None})
    how = " and ".join(_how(code) for code in codes) or "died"
    more = f" and {len(at) - _SHOWN} more" if len(at) > _SHOWN else ""
    where = ", ".join(at[:_SHOWN]) + more if at else "before its first task"
    return Fault(where, f"the worker at it {how}", CURE)


def _how(code: int) -> str:
    if code >= 0:  # the server of forks may be asked before it knows, and then says 255
        return "died" if code == _UNKNOWN else f"exited with {code}"
    memory = ", as the kernel does where memory is short" if code == -9 else ""
    return f"was killed by {Signals(-code).name}{memory}"


def leave_with_parent() -> None:
    """Have this process end when its parent is gone: what it waits for would be waited for without end."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave, daemon=True).start()


def _begin(environment: dict[str, str]) -> None:
    os.environ.update(environment)  # the server that workers are forked from keeps the one that it began with
    signal(SIGINT, SIG_IGN)  # a terminal's Ctrl-C reaches all; the parent ends the workers
    leave_with_parent()
