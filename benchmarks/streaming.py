"""Images a second from an object store with latency, over those without: `python -m benchmarks.streaming`.

Each latency has a stream of its own. They are measured in turn, in an order drawn anew each round, so that whatever
else the machine does falls on all alike; the streams whose turn it is not have filled their read-ahead and are idle.
Of a turn the first images, more than a read-ahead holds, are not counted.
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

from benchmarks.rows import Row, ratio_of, write_json
from benchmarks.slow_store import plain_gets, slow_stores
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
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--images", type=int, default=1536, help="images measured in each round")
    parser.add_argument("--size", type=int, default=224, help="side of a view")
    parser.add_argument("--read-ahead", type=int, default=64, help="MiB; the least of `data.read_ahead: auto`")
    parser.add_argument("--threads", type=int, default=decode_threads(1), help="decode threads")
    parser.add_argument("--json", type=Path, help="write the ratios here, as rows of `make bench`")
    given = parser.parse_args()
    os.environ.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_DEFAULT_REGION="us-east-1")
    figures = {delay: Figures() for delay in given.delays}
    with tempfile.TemporaryDirectory() as folder, slow_stores(given.data, given.copies, given.delays) as ports:
        pins = {delay: _pin(delay, ports[delay], PosixStore(folder)) for delay in given.delays}
        samples = pins[given.delays[0]].shapes[0].samples
        mean = sum(file.size for file in pins[given.delays[0]].files) // samples
        print(f"{samples} images of {mean / 1000:.0f} kB; {given.threads} decode threads; ", end="")
        print(f"read-ahead {given.read_ahead} MiB; {given.rounds} rounds of {given.images} images a latency\n")
        streams = {delay: _stream(pinned, given) for delay, pinned in pins.items()}
        skipped = given.read_ahead * 2**20 // mean // BATCH + 1
        for number in range(given.rounds):
            for delay in random.sample(given.delays, len(given.delays)):
                _measure(figures[delay], streams[delay], skipped, given.images // BATCH)
                print(f"round {number}, {delay} ms: {figures[delay].rates[-1]:.0f} images/s", file=sys.stderr)
        for stream in streams.values():
            stream.close()
        name = pins[given.delays[0]].files[0].name
        gets = {
            delay: asyncio.run(plain_gets(port, name, mean, connections=CONNECTIONS, seconds=3.0))
            for delay, port in ports.items()
        }
    _print(figures, gets, given.delays[0])
    if given.json:
        write_json(_rows(figures, given.delays[0]), given.json)


def _pin(delay: int, port: int, indexes: PosixStore) -> Pin:
    """The corpus behind one proxy: a bucket a latency, as a client connects when its bucket is first used."""
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    return pin([CorpusSpec(url=f"s3://corpus-{delay}-ms")], indexes)


def _stream(pinned: Pin, given: argparse.Namespace) -> Stream:
    layout = make_layout(seed=7, batch=BATCH, group=8, lanes="auto", window="auto", spans="auto", corpora=pinned.shapes)
    data = Data.model_validate({"corpora": [{"url": pinned.corpora[0].url}], "image_size": given.size})
    return Stream(
        Order(layout), pinned, data, seed=7, views=1, ranks=1, rank=0, first_step=0,
        threads=given.threads, read_ahead_bytes=given.read_ahead * 2**20,
    )  # fmt: skip


def _measure(figures: Figures, stream: Stream, skipped: int, steps: int) -> None:
    for _ in range(skipped):
        stream.next()
    began = time.monotonic()
    for _ in range(steps):
        batch = stream.next()
        figures.in_flight.append(batch.reads_in_flight)
        figures.ahead_bytes.append(batch.read_ahead_bytes)
    figures.rates.append(steps * BATCH / (time.monotonic() - began))


def _rows(figures: dict[int, Figures], base: int) -> list[Row]:
    return [
        Row(
            f"photographs from an object store at {delay} ms a request",
            f"at {base} ms",
            ratio_of(seen.rates, figures[base].rates),
            at_least=0.95,
            unit="images/s",
            value=statistics.median(seen.rates),
        )
        for delay, seen in figures.items()
        if delay != base
    ]


def _print(figures: dict[int, Figures], gets: dict[int, float], base: int) -> None:
    print(
        "| latency | images/s, median | over the rate without: median (least) | requests in flight: mean (most) ",
        end="",
    )
    print(f"| MiB ahead, median | plain GETs/s over {CONNECTIONS} connections |\n|---|---|---|---|---|---|")
    for delay, seen in figures.items():
        ratio = ratio_of(seen.rates, figures[base].rates)
        flight, ahead = seen.in_flight, statistics.median(seen.ahead_bytes) / 2**20
        print(
            f"| {delay} ms | {statistics.median(seen.rates):.0f} | {ratio.median:.2f} ({ratio.least:.2f}) "
            f"| {statistics.mean(flight):.0f} ({max(flight)}) | {ahead:.0f} | {gets[delay]:.0f} |"
        )


if __name__ == "__main__":
    main()
