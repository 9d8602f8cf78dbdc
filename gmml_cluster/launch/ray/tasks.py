"""Independent tasks as tasks of Ray: the `Workers` of `data/workers.py` on a whole cluster."""

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError

from gmml_cluster.data.workers import CURE, R, T
from gmml_cluster.errors import Fault, GmmlError, NotInstalled, WorkerLost
from gmml_cluster.launch.imports import lacking_on_ray

_AHEAD = 2
"""Tasks handed out for each core, so that none waits for its next one."""
_TRIES = 3
_LOOK_S = 5.0
_LACKS, _AT = re.compile(r"No module named '([^'.]+)"), re.compile(r"\bip=([^,)\s]+)")
"""What Ray says, in a traceback, of a package that a node lacks, and which node that is."""


def connect() -> None:
    """Join the cluster whose job this process is."""
    ray.init(address="auto", log_to_driver=False, logging_level="ERROR")


class RayTasks:
    """One core of the cluster for each task; nodes that join are used, and tasks of a lost node are done elsewhere.

    Args:
        limit: tasks at a time; None takes all cores.
        labels: what a task's node must have.
    """

    def __init__(self, limit: int | None, labels: Mapping[str, str]) -> None:
        self._limit, self._labels = limit, dict(labels)
        self._room, self._looked = 0, -_LOOK_S

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        # Ray's own retries have no end where memory is short, so they are counted here
        options: dict[str, Any] = {"num_cpus": 1, "max_retries": 0, "scheduling_strategy": "SPREAD"}
        if self._labels:
            options["label_selector"] = self._labels
        do = ray.remote(function).options(**options)
        left = iter(tasks)
        running: dict[Any, tuple[T, int]] = {}
        try:
            while True:
                while len(running) < self._wanted() and (task := next(left, None)) is not None:
                    running[do.remote(task)] = task, 1
                if not running:
                    return
                done, _ = ray.wait(list(running), num_returns=1, timeout=_LOOK_S)
                for reference in done:
                    task, tries = running.pop(reference)
                    try:
                        found: R = ray.get(reference)
                    except RayTaskError as error:
                        raise cause_of(error.cause, str(error)) from None
                    except RayError as error:
                        if tries == _TRIES:
                            raise WorkerLost(_fault(task.name, error)) from error
                        running[do.remote(task)] = task, tries + 1
                        continue
                    yield found
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def _wanted(self) -> int:
        """Tasks that may be handed out, by the cores that there are now."""
        if self._limit is not None:
            return self._limit
        if time.monotonic() - self._looked >= _LOOK_S:
            self._room = max(_AHEAD * int(ray.cluster_resources().get("CPU", 0)), 1)
            self._looked = time.monotonic()
        return self._room


def cause_of(cause: Exception, traceback: str) -> Exception:
    """What a task raised, or which package its node lacks: a task that cannot be imported there raises as any other.

    Args:
        cause: what Ray says that it raised.
        traceback: Ray's text of it.
    """
    lacking = None if isinstance(cause, GmmlError) else _LACKS.search(traceback)
    package = cause.faults[0].where if isinstance(cause, NotInstalled) else lacking and lacking[1]
    at = _AT.search(traceback)
    return lacking_on_ray(package, at[1] if at else "of a task", "data") if package else cause


def _fault(name: str, error: RayError) -> Fault:
    how = "for lack of memory" if isinstance(error, OutOfMemoryError) else f"({type(error).__name__})"
    return Fault(name, f"{_TRIES} workers of the cluster died at it {how}", CURE)
