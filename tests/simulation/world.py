"""A virtual world: processes whose threads run one at a time, on a virtual clock, in an order that a seed decides.

Each thread of each process is a greenlet. It gives up control where it sleeps, waits, or asks a store; whoever's
moment comes first goes on. Durations are drawn, so their order is too: a seed is a history.
"""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import greenlet

EPOCH = 1_900_000_000.0
FOREVER = float("inf")


class Dead(BaseException):
    """Ends the threads of processes that are gone, once a history is over."""


class TooLong(AssertionError):
    """A history does not come to rest."""


@dataclass(eq=False)
class Signal:
    """What threads wait for until it is given."""

    waiting: list["Thread"] = field(default_factory=list)

    def give(self) -> None:
        """Wake all who wait now."""
        for thread in self.waiting:
            thread.world.wake(thread)
        self.waiting.clear()


class Thread:
    """One thread of a process; its `ticket` says which of its wakings is the valid one."""

    def __init__(self, world: "World", process: "Process", name: str, body: Callable[[], None]) -> None:
        self.world, self.process, self.name, self._body = world, process, name, body
        self.done, self.ended, self.ticket, self.awoken = False, Signal(), 0, False
        self.run = greenlet.greenlet(self._run, world.main)

    def _run(self) -> None:
        try:
            self._body()
        except Dead:
            pass
        except BaseException as error:
            self.process.failed(error)
        self.done = True
        self.ended.give()
        self.process.thread_ended(self)


class Process:
    """One process on a node.

    Attributes:
        code: exit code once it is gone: 128 and more for a signal.
        frozen_until: no thread of it runs before, as under SIGSTOP, on a stalled node or in a swap storm.
        frozen_s: how long it was frozen in all, up to then.
        about: whatever its kind of process needs to know of itself.
    """

    def __init__(self, world: "World", name: str, node: "Node | None", about: Any = None) -> None:
        self.world, self.name, self.node, self.about = world, name, node, about
        self.code: int | None = None
        self.frozen_until, self.frozen_s = 0.0, 0.0
        self.ended, self.threads = Signal(), list[Thread]()
        self.error: BaseException | None = None

    @property
    def alive(self) -> bool:
        """Whether it has not ended."""
        return self.code is None

    def start(self, name: str, body: Callable[[], None], after_s: float = 0.0) -> Thread:
        """A new thread; the process ends when its first one does."""
        thread = Thread(self.world, self, name, body)
        self.threads.append(thread)
        self.world.wake(thread, after_s)
        return thread

    def freeze(self, seconds: float) -> None:
        """Let no thread of it run for so long from now on."""
        until = self.world.now + seconds
        self.frozen_s += max(0.0, until - max(self.world.now, self.frozen_until))
        self.frozen_until = max(until, self.frozen_until)

    def end(self, code: int, why: str = "") -> None:
        """End it now, as `kill -9` and `os._exit` do: nothing of it runs any more."""
        if self.alive:
            self.world.note(self.name, "ends" if code < 128 else "is killed", why or f"code {code}")
            self.code = code
            self.ended.give()

    def thread_ended(self, thread: Thread) -> None:
        """Its first thread returned."""
        if thread is self.threads[0]:
            self.end(0)

    def failed(self, error: BaseException) -> None:
        """A thread raised."""
        self.error = error
        self.world.errors.append((self, error))
        self.end(1, f"{type(error).__name__}: {error}")

    def wait(self) -> int:
        """Until it is gone; its exit code."""
        while self.code is None:
            self.world.wait(self.ended)
        return self.code


@dataclass(eq=False)
class Node:
    """A machine.

    Attributes:
        cut_off: whether the scheduler's controller does not reach it, while what runs on it does reach the store.
    """

    name: str
    cut_off: bool = False
    processes: list[Process] = field(default_factory=list)

    def lose(self, why: str) -> None:
        """The machine is gone, and what ran on it."""
        for process in self.processes:
            process.end(128 + 9, why)


class World:
    """The clock, the threads, and what came of them.

    Attributes:
        random: the only source of chance.
        now: virtual seconds since 1970.
        errors: processes that ended by an exception that nobody expected.
        lines: what happened, if it is wanted: seconds, who, what, outcome.
    """

    def __init__(self, seed: int, *, listed: bool = False) -> None:
        self.random, self.now = random.Random(seed), EPOCH
        self.errors: list[tuple[Process, BaseException]] = []
        self.lines: list[tuple[float, str, str, str]] = []
        self.processes: list[Process] = []
        self.over, self.switches = False, 0
        self._listed, self._heap, self._count = listed, list[tuple[float, int, int, Thread]](), 0
        self.main, self.thread = greenlet.getcurrent(), None

    # what a thread asks for

    @property
    def process(self) -> Process:
        """Whose thread runs now."""
        assert self.thread is not None
        return self.thread.process

    def sleep(self, seconds: float) -> None:
        """Let others run for so long."""
        thread = self._running()
        self.wake(thread, seconds)
        self._switch()

    def wait(self, signal: Signal, timeout_s: float = FOREVER) -> bool:
        """Until the signal is given, or for so long; whether it was given."""
        thread = self._running()
        thread.awoken = False
        signal.waiting.append(thread)
        if timeout_s != FOREVER:
            self.wake(thread, timeout_s)
        else:
            thread.ticket += 1
        self._switch()
        if thread in signal.waiting:
            signal.waiting.remove(thread)
            return False
        return True

    def stop_thread(self) -> None:
        """Never come back."""
        self._running().ticket += 1
        self._switch()

    def wake(self, thread: Thread, after_s: float = 0.0) -> None:
        """Let a thread go on after so long; a waking that was planned before is void."""
        thread.ticket += 1
        self._count += 1
        heapq.heappush(self._heap, (self.now + after_s, self._count, thread.ticket, thread))

    def note(self, who: str, what: str, outcome: str = "") -> None:
        """Keep a line of the history, where they are wanted."""
        if self._listed:
            self.lines.append((self.now - EPOCH, who, what, outcome))

    def is_listed(self) -> bool:
        """Whether lines are wanted."""
        return self._listed

    def start(
        self, name: str, body: Callable[[], None], node: Node | None = None, after_s: float = 0.0, about: Any = None
    ) -> Process:
        """A new process whose first thread is the body."""
        process = Process(self, name, node, about)
        self.processes.append(process)
        if node is not None:
            node.processes.append(process)
        process.start("main", body, after_s)
        return process

    # the scheduler

    def run(self, until: float = FOREVER, *, most: int = 10**9) -> None:
        """Run what is due, up to a moment, or until nothing alive is left to do."""
        while self._heap and self._heap[0][0] <= until:
            moment, _, ticket, thread = heapq.heappop(self._heap)
            if ticket != thread.ticket or thread.done or not thread.process.alive:
                continue
            if thread.process.frozen_until > moment:
                self._count += 1
                heapq.heappush(self._heap, (thread.process.frozen_until, self._count, ticket, thread))
                continue
            self.now = max(self.now, moment)
            self.thread = thread
            self.switches += 1
            if self.switches > most:
                raise TooLong(f"more than {most} switches; {thread.process.name} {thread.name} is at work")
            thread.run.switch()
            self.thread = None
        if until != FOREVER:
            self.now = max(self.now, until)

    def clear(self) -> None:
        """End all threads, so that nothing of a history is left in memory."""
        self.over = True
        for process in self.processes:
            for thread in process.threads:
                self.thread = thread
                if not thread.done and thread.run:
                    thread.run.throw(Dead)
        self.thread = None

    def _running(self) -> Thread:
        if self.over:
            raise Dead
        assert self.thread is not None
        return self.thread

    def _switch(self) -> None:
        self.main.switch()
        if self.over:
            raise Dead


_world: World | None = None


def here() -> World:
    """The world that runs now."""
    if _world is None:
        raise RuntimeError("no history runs")
    return _world


def enter(world: World | None) -> None:
    """Make a world the one that runs."""
    global _world
    _world = world
