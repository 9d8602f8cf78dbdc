"""The modules `time`, `threading`, `os`, `random` and `secrets` as the product's code sees them within a history."""

from collections.abc import Callable, Iterable
from typing import Any

from tests.simulation.world import FOREVER, Dead, Signal, here


class Time:
    """Of the module `time`."""

    @staticmethod
    def time() -> float:
        return here().now

    monotonic = time

    @staticmethod
    def sleep(seconds: float) -> None:
        here().sleep(seconds)


def running_time() -> float:
    """Of the module of that name: time in which this process was frozen does not count."""
    world = here()
    return world.now - world.thread.process.frozen_s


class Lock:
    """A lock that its holder may take again, as `threading.RLock` is."""

    def __init__(self) -> None:
        self._holder, self._depth, self._freed = None, 0, Signal()

    def __enter__(self) -> "Lock":
        world = here()
        while self._holder not in (None, world.thread):
            world.wait(self._freed)
        self._holder, self._depth = world.thread, self._depth + 1
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        if not self._depth:
            self._holder = None
            self._freed.give()


class Event:
    """Of the module `threading`."""

    def __init__(self) -> None:
        self._is_set, self._given = False, Signal()

    def set(self) -> None:
        self._is_set = True
        self._given.give()

    def wait(self, timeout: float = FOREVER) -> bool:
        world = here()
        deadline = world.now + timeout
        while not self._is_set and world.now < deadline:
            world.wait(self._given, deadline - world.now)
        return self._is_set


class Thread:
    """Of the module `threading`: a thread of the process that makes it."""

    def __init__(
        self, target: Callable[..., Any], args: Iterable[Any] = (), name: str = "", daemon: bool = True
    ) -> None:
        self._target, self._args, self._name, self._thread = target, args, name, None

    def start(self) -> None:
        self._thread = here().process.start(self._name or "thread", lambda: self._target(*self._args))

    def is_alive(self) -> bool:
        return self._thread is not None and not self._thread.done

    def join(self, timeout: float = FOREVER) -> None:
        world = here()
        deadline = world.now + timeout
        while self.is_alive() and world.now < deadline:
            world.wait(self._thread.ended, deadline - world.now)


class Threading:
    """Of the module `threading`."""

    Thread, Event, Lock, RLock = Thread, Event, Lock, Lock

    @staticmethod
    def get_ident() -> int:
        return id(here().thread)


class Pool:
    """A ThreadPoolExecutor that works in the thread that asks."""

    def __init__(self, workers: int) -> None:
        pass

    def map(self, call: Callable[[Any], Any], values: Iterable[Any]) -> list[Any]:
        return [call(value) for value in values]

    def shutdown(self, *, cancel_futures: bool = False) -> None:
        pass


class System:
    """Of the module `os`: what ends a process."""

    environ = {}

    @staticmethod
    def _exit(code: int) -> None:
        world = here()
        if world.over:
            raise Dead
        world.process.end(code)
        world.stop_thread()


class Random:
    """Of the module `random`."""

    @staticmethod
    def uniform(low: float, high: float) -> float:
        return here().random.uniform(low, high)


class Secrets:
    """Of the module `secrets`."""

    @staticmethod
    def token_hex(length: int) -> str:
        return f"{here().random.getrandbits(8 * length):0{2 * length}x}"
