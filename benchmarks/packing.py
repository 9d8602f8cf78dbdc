"""Images a second that `gmml corpus pack` packs by two workers over one, and by Ray: `python -m benchmarks.packing`.

Each round packs the same images by each kind of workers, in an order drawn anew, so that whatever else the machine does
falls on all alike. The first shards of each are not counted, so that the start of processes is not.
"""

import argparse
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.source import Source
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.workers import Processes, R, T, Workers

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "photos"
PRELOAD = ("gmml_cluster.data.packing.shard",)


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
    parser.add_argument("--ray", action="store_true", help="join the Ray cluster of RAY_ADDRESS as well")
    given = parser.parse_args()
    kinds: dict[str, Workers] = {"1 process": Processes(1, PRELOAD), "2 processes": Processes(2, PRELOAD)}
    if given.ray:
        import ray

        from gmml_cluster.launch.ray.tasks import RayTasks

        ray.init(
            runtime_env={"env_vars": {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}}, log_to_driver=False
        )
        kinds["2 tasks of Ray"] = RayTasks(2, {})
    rates: dict[str, list[float]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        source = _copied(given.data, given.copies, Path(folder, "images"))
        for number in range(given.rounds):
            for kind in random.sample(list(kinds), len(kinds)):
                timed = Timed(kinds[kind], first=4)
                pack(source, f"{folder}/out", shard_samples=given.shard_samples, workers=timed)
                shutil.rmtree(f"{folder}/out")
                rates[kind].append(timed.tasks_per_s * given.shard_samples)
                print(f"round {number}, {kind}: {rates[kind][-1]:.0f} images/s", file=sys.stderr)
    _print(rates)


def _copied(data: Path, copies: int, folder: Path) -> Source:
    """A folder with each image several times: one that all workers, and Ray's, can read."""
    for number, item in enumerate(find_source(str(data)).items):
        for copy in range(copies):
            path = folder / str(copy) / f"{number:06d}.{item.extension}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(item.read())
    return find_source(str(folder))


def _print(rates: dict[str, list[float]]) -> None:
    base = next(iter(rates.values()))
    print("| workers | images/s, median | over one process: median (least to most) |\n|---|---|---|")
    for kind, seen in rates.items():
        ratios = [rate / one for rate, one in zip(seen, base, strict=True)]
        print(
            f"| {kind} | {statistics.median(seen):.0f} "
            f"| {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) |"
        )


if __name__ == "__main__":
    main()
