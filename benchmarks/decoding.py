"""Images a second of a stream over those of a bare decode loop, on small images: `python -m benchmarks.decoding`.

The bare loop holds the encoded images in memory and decodes and resizes them, whole, with no order, draw or check. Both
are measured with the same number of threads and in turn, so that whatever else the machine does falls on both alike.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import cv2

from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.reader.decode import decode
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data

BATCH = 256
CHUNK = 16


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpora", nargs="+", metavar="URL=SIZE", help="shards, and the side of a view")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=12, help=f"steps of {BATCH} images measured in each round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    print("| corpus | threads | bare loop, images/s | stream, images/s | stream over bare: median (least) |")
    print("|---|---|---|---|---|")
    for corpus in given.corpora:
        url, size = corpus.rsplit("=", 1)
        pinned = pin([CorpusSpec(url=url)])
        for threads in given.threads:
            _compare(pinned, int(size), threads, given.rounds, given.steps)


def _compare(pinned: Pin, size: int, threads: int, rounds: int, steps: int) -> None:
    samples = min(BATCH * steps, pinned.shapes[0].samples)
    encoded = Fetcher(pinned).fetch([Wanted(0, y) for y in range(samples)])
    layout = make_layout(seed=7, batch=BATCH, group=8, lanes="auto", window="auto", spans="auto", corpora=pinned.shapes)
    url = pinned.corpora[0].url
    data = Data.model_validate({"corpora": [{"url": url}], "image_size": size})
    stream = Stream(Order(layout), pinned, data, seed=7, views=1, ranks=1, rank=0, first_step=0, threads=threads)
    rates: dict[str, list[float]] = {"bare": [], "stream": []}
    with ThreadPoolExecutor(threads) as pool:

        def bare() -> int:
            chunks = [encoded[first : first + CHUNK] for first in range(0, len(encoded), CHUNK)]
            return sum(pool.map(lambda chunk: _decode_all(chunk, size), chunks))

        def streamed() -> int:
            return sum(len(stream.next().numbers) for _ in range(steps))

        for number in range(rounds + 1):
            for name, action in (("bare", bare), ("stream", streamed)):
                rate = _rate(action)
                if number:  # the first round fills caches
                    rates[name].append(rate)
            print(f"{url}, {threads} threads, round {number}", file=sys.stderr)
    stream.close()
    ratios = [one / other for one, other in zip(rates["stream"], rates["bare"], strict=True)]
    bare_rate, rate = (statistics.median(rates[name]) for name in ("bare", "stream"))
    print(
        f"| {url.rpartition('/')[2]}, {size} px | {threads} | {bare_rate:.0f} | {rate:.0f} "
        f"| {statistics.median(ratios):.2f} ({min(ratios):.2f}) |",
        flush=True,
    )


def _decode_all(chunk: list[bytes], size: int) -> int:
    for data in chunk:
        cv2.resize(decode(data, 10**8), (size, size), interpolation=cv2.INTER_CUBIC)
    return len(chunk)


def _rate(action: Callable[[], int]) -> float:
    began = time.monotonic()
    count = action()
    return count / (time.monotonic() - began)


if __name__ == "__main__":
    main()
