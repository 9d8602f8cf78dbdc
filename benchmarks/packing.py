"""Images a second that `gmml corpus pack` packs by two workers over one: `python -m benchmarks.packing [--ray]`.

Each round packs the same images by one and by two processes, and with `--ray` by one and by two tasks of a Ray cluster
of this machine, which the command starts; all in an order drawn anew, so that whatever else the machine does falls on
all alike. The first shards of each are not counted, so that the start of processes is not.
"""

import argparse
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.source import ImageSource
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.workers import Processes, R, T, Workers
from tests.fixtures.ray import running_ray

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT.parent / "shared" / "data" / "photos"
PRELOAD = ("gmml_cluster.data.packing.shard",)
PROCESSES, TASKS = ("1 process", "2 processes"), ("1 task of Ray", "2 tasks of Ray")


class Timed:
    """Workers whose tasks are timed from the end of the first one on.

    Args:
        workers: what does them.
        first: tasks that are not counted; one for each worker at least.
    """

    def __init__(self, workers: Workers, first: int) -> None:
        self._workers, self._first = workers, first
        self.tasks_per_s = 0.0

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results, timed."""
        began, done = 0.0, 0
        for result in self._workers.map(function, tasks):
            done += 1
            if done == self._first:
                began = time.monotonic()
            yield result
        if done > self._first:
            self.tasks_per_s = (done - self._first) / (time.monotonic() - began)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of shards")
    parser.add_argument("--copies", type=int, default=6, help="how often each image is packed")
    parser.add_argument("--shard-samples", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--ray", action="store_true", help="pack by the tasks of a Ray cluster as well")
    given = parser.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in PROCESSES + (TASKS if given.ray else ())}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        workers = workers_of(stack, ray=given.ray)
        source = _copied(given.data, given.copies, Path(folder, "images"))
        for number in range(given.rounds):
            for kind in random.sample(list(rates), len(rates)):
                timed = Timed(workers[kind], first=4)
                pack(source, f"{folder}/out", shard_samples=given.shard_samples, workers=timed)
                shutil.rmtree(f"{folder}/out")
                rates[kind].append(timed.tasks_per_s * given.shard_samples)
                print(f"round {number}, {kind}: {rates[kind][-1]:.0f} images/s", file=sys.stderr)
    for line in table(rates):
        print(line)


def workers_of(stack: ExitStack, *, ray: bool) -> dict[str, Workers]:
    """Of each kind; a cluster is stopped with the stack."""
    found: dict[str, Workers] = {kind: Processes(number, PRELOAD) for number, kind in enumerate(PROCESSES, 1)}
    if ray:
        import ray as cluster

        from gmml_cluster.launch.ray.tasks import RayTasks

        running = stack.enter_context(running_ray(nodes=0))
        running.add_node(cpus=2)
        os.environ["RAY_AUTH_MODE"] = "disabled"
        code = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        cluster.init(address=running.gcs, runtime_env=code, log_to_driver=False, logging_level="ERROR")
        stack.callback(cluster.shutdown)
        found |= {kind: RayTasks(number, {}) for number, kind in enumerate(TASKS, 1)}
    return found


def _copied(data: Path, copies: int, folder: Path) -> ImageSource:
    """A folder with each image several times: one that all workers, and Ray's, can read."""
    for number, item in enumerate(find_source(str(data)).items):
        for copy in range(copies):
            path = folder / str(copy) / f"{number:06d}.{item.extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(item.read())
    return find_source(str(folder))


def table(rates: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Lines of the table: each kind over one worker of its kind, round by round."""
    yield "| workers | images/s, median | over one of the kind: median (least to most) |"
    yield "|---|---|---|"
    for ones, twos in (PROCESSES, TASKS):
        for kind in (ones, twos):
            if kind in rates:
                ratios = [rate / one for rate, one in zip(rates[kind], rates[ones], strict=True)]
                span = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
                yield f"| {kind} | {statistics.median(rates[kind]):.0f} | {span} |"


if __name__ == "__main__":
    main()
