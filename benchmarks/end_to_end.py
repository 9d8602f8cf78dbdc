"""Training steps on images from shards over the same steps on images in memory: `python -m benchmarks.end_to_end`.

A job of `jobs/` by the training loop, one rank with one thread, its reader with one decode thread on this machine's
second core. Both are measured in turn; the steps whose images a reader has decoded ahead of its turn are not counted.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from benchmarks.gpu_check.result import Setting
from benchmarks.gpu_check.training import RandomBatches, make_trainer, process_group
from benchmarks.reading import DATA
from benchmarks.rows import Row, interleaved, markdown, ratio_of, write_json
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import STEPS_AHEAD, Stream
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import job_path, load_job
from gmml_cluster.train.stepper import Batches

JOB, SHARDS = "cifar10_vit_tiny", "cifar10/train-*.tar"
_HERE = torch.device("cpu")


def main() -> None:
    """Measure, print the row, and write it with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py, which writes the shards")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="measured in each round")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, process_group(Setting("cpu", quick=False, data=Path())):
        subprocess.run([sys.executable, given.data / "expand.py", folder, "cifar10"], check=True, stdout=sys.stderr)
        row = compared(f"{folder}/{SHARDS}", given.rounds, given.steps)
    print(markdown([row]))
    if given.json:
        write_json([row], given.json)


def compared(shards: str, rounds: int, steps: int) -> Row:
    """Images a second of the job from shards over those from memory."""
    job = load_job(job_path(JOB), [f"data.corpora.0.url={shards}"])
    stream = stream_of(job)
    try:
        rates = interleaved(
            {"shards": _rate(job, stream, steps), "memory": _rate(job, RandomBatches(job, 1, 0), steps)}, rounds
        )
    finally:
        stream.close()
    value = sorted(rates["shards"])[rounds // 2]
    return Row(
        f"end to end, jobs/{JOB}.yaml from local shards",
        "the same steps on images in memory",
        ratio_of(rates["shards"], rates["memory"]),
        at_least=0.98,
        unit="images/s",
        value=value,
    )


def stream_of(job: JobSpec) -> Stream:
    """The reader of the job's only rank."""
    pinned = pin(job.data.corpora)
    layout = make_layout(seed=job.seed, batch=job.batch.size, group=8, lanes="auto", window="auto", spans="auto",
                         corpora=pinned.shapes)  # fmt: skip
    order = Order(layout)
    return Stream(order, pinned, job.data, seed=job.seed, views=1, ranks=1, rank=0, first_step=0, threads=1)


def _rate(job: JobSpec, batches: Batches, steps: int) -> Callable[[], float]:
    """Trains some steps in each call; gives the images a second of all but the first ones."""
    skipped = STEPS_AHEAD + 1  # decoded before the turn began, and the one that is being decoded
    trainer, first = make_trainer(job, _HERE, steps=10**6, batches=batches), count(0, skipped + steps)

    def rate() -> float:
        start = next(first)
        trainer.train(start, start + skipped)
        began = time.perf_counter()
        trainer.train(start + skipped, start + skipped + steps)
        return steps * job.batch.size / (time.perf_counter() - began)

    return rate


if __name__ == "__main__":
    main()
