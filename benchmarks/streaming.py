"""Images a second from an object store with latency, over those without: `python -m benchmarks.streaming`.

Rounds are interleaved: in each, every latency gets a stream of its own, in an order drawn anew, which reads from where
the last one ended. A stream is measured from when its read-ahead is full, over several times what that holds.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.slow_store import BUCKET, plain_gets, slow_stores
from gmml_cluster.data.corpus import listing
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.reader.node_share import decode_threads
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data
from gmml_cluster.store.posix import PosixStore

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "photos"
BATCH = 64
CONNECTIONS = 64


@dataclass
class Figures:
    """What was seen at one latency."""

    rates: list[float] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)
    ahead_bytes: list[int] = field(default_factory=list)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of shards")
    parser.add_argument("--copies", type=int, default=8, help="how often the store holds each shard")
    parser.add_argument(
        "--delays", type=int, nargs="+", default=[0, 50, 150], help="ms a request; the first is the base"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=1280, help="images measured in each round")
    parser.add_argument("--size", type=int, default=224, help="side of a view")
    parser.add_argument("--read-ahead", type=int, default=64, help="MiB")
    parser.add_argument("--threads", type=int, default=decode_threads(1), help="decode threads")
    given = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_DEFAULT_REGION="us-east-1")
    with tempfile.TemporaryDirectory() as folder, slow_stores(given.data, given.copies, given.delays) as ports:
        _connect(ports[given.delays[0]])
        pinned = pin([CorpusSpec(url=f"s3://{BUCKET}")], PosixStore(folder))
        mean = sum(file.size for file in pinned.files) // sum(pinned.shapes[0].shards)
        name = pinned.files[0].name
        print(
            f"{sum(pinned.shapes[0].shards)} images of {mean / 1000:.0f} kB; {given.threads} decode threads; ", end=""
        )
        print(f"read-ahead {given.read_ahead} MiB; {given.rounds} rounds of {given.images} images a latency\n")
        figures = {delay: Figures() for delay in given.delays}
        for number in range(given.rounds):
            for delay in random.sample(given.delays, len(given.delays)):
                _connect(ports[delay])
                _measure(figures[delay], pinned, PosixStore(folder), given, first=number * 1000)
                print(f"round {number}, {delay} ms: {figures[delay].rates[-1]:.0f} images/s", file=sys.stderr)
        gets = {
            delay: asyncio.run(plain_gets(ports[delay], name, mean, connections=CONNECTIONS, seconds=3.0))
            for delay in given.delays
        }
    _print(figures, gets, given.delays[0])


def _connect(port: int) -> None:
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    listing.store_of.cache_clear()


def _measure(figures: Figures, pinned: Pin, indexes: PosixStore, given: argparse.Namespace, *, first: int) -> None:
    layout = make_layout(seed=7, batch=BATCH, group=8, lanes="auto", window="auto", spans="auto", corpora=pinned.shapes)
    data = Data.model_validate({"corpora": [{"url": f"s3://{BUCKET}"}], "image_size": given.size})
    stream = Stream(
        Order(layout), Pin.from_json(pinned.to_json(), indexes), data, seed=7, views=1, ranks=1, rank=0,
        first_step=first, threads=given.threads, read_ahead_bytes=given.read_ahead * 2**20,
    )  # fmt: skip
    try:
        full = 0.7 * given.read_ahead * 2**20
        for _ in range(2 * given.images // BATCH):
            if stream.next().read_ahead_bytes > full:
                break
        steps, began = given.images // BATCH, time.monotonic()
        for _ in range(steps):
            batch = stream.next()
            figures.in_flight.append(batch.reads_in_flight)
            figures.ahead_bytes.append(batch.read_ahead_bytes)
        figures.rates.append(steps * BATCH / (time.monotonic() - began))
    finally:
        stream.close()


def _print(figures: dict[int, Figures], gets: dict[int, float], base: int) -> None:
    print(
        "| latency | images/s, median | over the rate without: median (least) | requests in flight: mean (most) ",
        end="",
    )
    print(f"| MiB ahead, median | plain GETs/s over {CONNECTIONS} connections |\n|---|---|---|---|---|---|")
    for delay, seen in figures.items():
        ratios = [rate / without for rate, without in zip(seen.rates, figures[base].rates, strict=True)]
        flight, ahead = seen.in_flight, statistics.median(seen.ahead_bytes) / 2**20
        print(
            f"| {delay} ms | {statistics.median(seen.rates):.0f} | {statistics.median(ratios):.2f} ({min(ratios):.2f}) "
            f"| {statistics.mean(flight):.0f} ({max(flight)}) | {ahead:.0f} | {gets[delay]:.0f} |"
        )


if __name__ == "__main__":
    main()
