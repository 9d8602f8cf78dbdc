"""CPU time of the process that hands out the shards of `gmml corpus pack`: `python -m benchmarks.handing_out`.

That process alone limits how many workers one command feeds. Here it plans the shards, hands them to the tasks of a
Ray cluster of this machine, which the command starts, and takes their records, while no task makes anything. The
images are Tiny ImageNet's, in tars that are linked several times over.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.packing import TASKS, workers_of
from benchmarks.reading import DATA
from gmml_cluster.data.packing.pack import pack
from gmml_cluster.data.packing.report import ShardRecord
from gmml_cluster.data.packing.shard import ShardTask
from gmml_cluster.data.packing.source import Listing
from gmml_cluster.data.packing.sources import find_source
from gmml_cluster.data.workers import R, T, Workers

_FIRST = 10


class AllHandedOut(Exception):
    """There is nothing to finish: no shard was made."""


class Idle:
    """Workers that take the tasks and do nothing; the CPU time of this process is taken, but for the first tasks."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.ms_a_task = 0.0

    def map(self, function: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """An empty record of each task."""
        began, done = 0.0, 0
        for result in self._workers.map(empty_record, tasks):
            done += 1
            if done == _FIRST:
                began = time.process_time()
            yield result
        self.ms_a_task = 1000 * (time.process_time() - began) / (done - _FIRST)
        raise AllHandedOut


def empty_record(task: ShardTask) -> ShardRecord:
    """What a task returns here."""
    return ShardRecord(task.number)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py, which writes the tars")
    parser.add_argument("--copies", type=int, default=20, help="how often each tar is there")
    parser.add_argument("--shard-samples", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        source = _source(given.data, given.copies, Path(folder))
        workers = Idle(workers_of(stack, ray=True)[TASKS[1]])
        found = sorted(_measured(source, folder, given.shard_samples, workers) for _ in range(given.rounds))
    median = found[len(found) // 2]
    print(f"{median:.1f} ms of CPU a shard of {given.shard_samples} samples, median of {len(found)} rounds ", end="")
    print(f"({found[0]:.1f} to {found[-1]:.1f}): {1000 * given.shard_samples / median:,.0f} samples/s")


def _source(data: Path, copies: int, folder: Path) -> Listing:
    subprocess.run([sys.executable, data / "expand.py", folder], check=True, stdout=sys.stderr)
    images = folder / "images"
    images.mkdir()
    for tar in (folder / "tiny_imagenet_50").glob("train-*.tar"):
        for copy in range(copies):
            os.link(tar, images / f"{copy}-{tar.name}")
    return find_source(str(images))


def _measured(source: Listing, folder: str, shard_samples: int, workers: Idle) -> float:
    try:
        pack(source, f"{folder}/packed", shard_samples=shard_samples, workers=workers)
    except AllHandedOut:
        return workers.ms_a_task
    raise AssertionError("the shards were made")


if __name__ == "__main__":
    main()
