"""Images a second from an object store with latency, over those without: `python -m benchmarks.streaming`.

Each latency has a stream of its own. They are measured in turn, in an order drawn anew each round, so that whatever
else the machine does falls on all alike; the streams whose turn it is not have filled their read-ahead and are idle.
Of a turn the first images, more than a read-ahead holds, are not counted. One more stream reads the same shards from
this machine's disk: what an image costs in CPU time from the store is compared with it.
"""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
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
DISK = None
"""In the place of a latency: the shards on this machine's disk."""


@dataclass
class Figures:
    """What was seen at one latency."""

    rates: list[float] = field(default_factory=list)
    cpu_ms: list[float] = field(default_factory=list)
    """Of an image; of all threads of this process."""
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
    figures: dict[int | None, Figures] = {source: Figures() for source in (*given.delays, DISK)}
    with tempfile.TemporaryDirectory() as folder, slow_stores(given.data, given.copies, given.delays) as ports:
        indexes = PosixStore(f"{folder}/indexes")
        pins: dict[int | None, Pin] = {delay: _pin(delay, ports[delay], indexes) for delay in given.delays}
        pins[DISK] = pin([CorpusSpec(url=_copies(given.data, given.copies, Path(folder, "shards")))], indexes)
        samples = pins[given.delays[0]].shapes[0].samples
        mean = sum(file.size for file in pins[given.delays[0]].files) // samples
        print(f"{samples} images of {mean / 1000:.0f} kB; {given.threads} decode threads; ", end="")
        print(f"read-ahead {given.read_ahead} MiB; {given.rounds} rounds of {given.images} images a latency\n")
        streams = {source: _stream(pinned, given) for source, pinned in pins.items()}
        skipped = given.read_ahead * 2**20 // mean // BATCH + 1
        for number in range(given.rounds):
            for source in random.sample(list(streams), len(streams)):
                _measure(figures[source], streams[source], skipped, given.images // BATCH)
                print(f"round {number}, {_name(source)}: {figures[source].rates[-1]:.0f} images/s", file=sys.stderr)
        for stream in streams.values():
            stream.close()
        name = pins[given.delays[0]].files[0].name
        gets = {
            delay: asyncio.run(plain_gets(port, name, mean, connections=CONNECTIONS, seconds=3.0))
            for delay, port in ports.items()
        }
    _print(figures, gets, given.delays[0])
    if given.json:
        write_json(list(_rows(figures, given.delays[0])), given.json)


def _pin(delay: int, port: int, indexes: PosixStore) -> Pin:
    """The corpus behind one proxy: a bucket a latency, as a client connects when its bucket is first used."""
    os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
    return pin([CorpusSpec(url=f"s3://corpus-{delay}-ms")], indexes)


def _copies(data: Path, copies: int, folder: Path) -> str:
    """A folder with links to the shards, each as often as the store holds it; its URL."""
    folder.mkdir()
    for path in sorted(data.glob("*.tar")):
        for number in range(copies):
            (folder / f"{path.stem}-{number}.tar").symlink_to(path.resolve())
    return str(folder / "*.tar")


def _name(source: int | None) -> str:
    return "disk" if source is DISK else f"{source} ms"


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
    began, before = time.monotonic(), time.process_time()
    for _ in range(steps):
        batch = stream.next()
        figures.in_flight.append(batch.reads_in_flight)
        figures.ahead_bytes.append(batch.read_ahead_bytes)
    figures.rates.append(steps * BATCH / (time.monotonic() - began))
    figures.cpu_ms.append(1e3 * (time.process_time() - before) / (steps * BATCH))


def _rows(figures: dict[int | None, Figures], base: int) -> Iterator[Row]:
    for source, seen in figures.items():
        if source not in (base, DISK):
            yield Row(
                f"photographs from an object store at {source} ms a request",
                f"at {base} ms",
                ratio_of(seen.rates, figures[base].rates),
                at_least=0.95,
                unit="images/s",
                value=statistics.median(seen.rates),
            )
    cpu_ms = figures[base].cpu_ms
    yield Row(
        f"CPU time of a photograph from an object store at {base} ms",
        "from disk",
        ratio_of(cpu_ms, figures[DISK].cpu_ms),
        at_most=1.3,
        unit="ms",
        value=statistics.median(cpu_ms),
    )


def _print(figures: dict[int | None, Figures], gets: dict[int, float], base: int) -> None:
    columns = [
        "latency", "images/s, median", "over the rate without: median (least)", "requests in flight: mean (most)",
        "MiB ahead, median", f"plain GETs/s over {CONNECTIONS} connections", "CPU ms an image",
    ]  # fmt: skip
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for source, seen in figures.items():
        ratio = ratio_of(seen.rates, figures[base].rates)
        flight, ahead = seen.in_flight, statistics.median(seen.ahead_bytes) / 2**20
        served = "-" if source is DISK else f"{gets[source]:.0f}"
        print(
            f"| {_name(source)} | {statistics.median(seen.rates):.0f} | {ratio.median:.2f} ({ratio.least:.2f}) "
            f"| {statistics.mean(flight):.0f} ({max(flight)}) | {ahead:.0f} | {served} "
            f"| {statistics.median(seen.cpu_ms):.2f} |"
        )


if __name__ == "__main__":
    main()
