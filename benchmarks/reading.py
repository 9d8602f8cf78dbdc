"""Images a second of the reader over bare loops and over peers, all cores busy: `python -m benchmarks.reading`.

The bare loop holds the encoded images in memory and decodes and resizes them, whole, with no order, draw or check:
images that have the view's size already, as small ones do, it copies. The cropping loop resizes a crop of each, drawn
before the clock starts: the limit of a stream, which has to resize crops too, if all else cost nothing.
The better loop does it as well as is possible with the same decoder: a JPEG that is twice as large as the view or more
is decoded at half its scale, into a buffer that is used again, and resized linearly. Peer: `benchmarks/peers.py`. All
are measured with the same number of threads or processes and in turn, so that whatever else the machine does falls on
all alike; what a loader has made ahead of its turn is not counted. The last row of several threads is over as many
processes with a stream of one thread each: what decoding in processes could gain at most.

`--cpu` compares the stream with the loops by CPU time of this process instead, all of its threads together. That
depends less on what else the machine does, and says nothing of waiting.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import cv2
import numpy as np
import simplejpeg

from benchmarks.measuring_process import MeasuringProcess
from benchmarks.peers import AHEAD, rate
from benchmarks.rows import Row, interleaved, markdown, ratio_of, write_json
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.crop import crop_boxes, draw_crops, resize
from gmml_cluster.data.reader.decode import decode
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.augment import Crop
from gmml_cluster.spec.job import CorpusSpec, Data

DATA = Path(__file__).resolve().parents[1].parent / "shared" / "data"
BATCH = 128
_CHUNK = 16
_DECODERS = ("ours", "Pillow")
_Image = TypeVar("_Image")  # bytes, with a crop or without


@dataclass(frozen=True)
class Corpus:
    """Real images, the side of a view of them, and the goals of their rows.

    Attributes:
        bare: goal over the bare loop and over the cropping one.
        better: goal over the better loop, None where it does not differ.
        given: goal over the best peer with our decoder; `as_it_comes` over the best as its users have it.
        reason: why a goal is not reached.
    """

    name: str
    shards: str
    size: int
    bare: float
    better: float | None
    given: float
    as_it_comes: float
    reason: str


_DECODED = "decoding is nearly all of both, as the row over the cropping loop shows"
_REDUCED = (
    "a stream decodes at full scale, as a reduced one gives other pixels and suits few crops "
    "([0039](decisions/0039-resizing-in-c.md))"
)
_SMALL = (
    "reading, planning and Python take some 40 % of a small image's time, beside decoding and resizing "
    "([0044](decisions/0044-small-images.md))"
)
_LOCK = (
    "all threads of a stream share one interpreter's lock, which Python needs for a quarter of a small image's time "
    "([0044](decisions/0044-small-images.md))"
)
CORPORA = (
    Corpus("photographs", "photos/photos-*.tar", 224, 0.95, 0.95, 1.2, 2.0, _DECODED),
    Corpus("Tiny ImageNet", "tiny_imagenet_50/train-*.tar", 64, 0.80, None, 1.0, 1.4, _SMALL),
    Corpus("CIFAR-10", "cifar10/train-*.tar", 32, 0.80, None, 1.0, 1.4, _SMALL),
)


def main() -> None:
    """Measure, print the rows, and write them with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py, which writes the shards")
    parser.add_argument("--only", nargs="+", default=[corpus.name for corpus in CORPORA], help="corpora")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help=f"batches of {BATCH} measured in each round")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--cpu", action="store_true", help="images a second of CPU time, without peers")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--stream", nargs=2, metavar=("SHARDS", "SIZE"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stream:
        _serve(given.stream[0], int(given.stream[1]))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, given.data / "expand.py", folder], check=True, stdout=sys.stderr)
        for corpus in CORPORA:
            if corpus.name in given.only:
                for threads in given.threads:
                    rows += compare(corpus, folder, threads, given)
                    print(f"{corpus.name}, {threads} threads", file=sys.stderr)
    print(markdown(rows))
    if given.json:
        write_json(rows, given.json)


def compare(corpus: Corpus, folder: str, threads: int, given: argparse.Namespace) -> list[Row]:
    """The rows of one corpus and number of threads."""
    shards = f"{folder}/{corpus.shards}"
    pinned = pin([CorpusSpec(url=shards)])
    samples = min(BATCH * given.batches, pinned.shapes[0].samples)
    encoded = [bytes(data) for data in Fetcher(pinned).fetch([Wanted(0, y) for y in range(samples)])]
    cropped = list(zip(encoded, boxes_of(encoded).tolist(), strict=True))
    with ExitStack() as stack:
        stream = stack.enter_context(closing(_stream(pinned, corpus.size, threads)))
        pool = stack.enter_context(ThreadPoolExecutor(threads))
        measures = {
            "stream": lambda: rate(iter(stream.next, None), BATCH, given.batches),
            "bare": lambda: _loop(pool, _decode_whole, encoded, corpus.size),
            "cropping": lambda: _loop(pool, _decode_cropped, cropped, corpus.size),
            "better": lambda: _loop(pool, _decode_reduced, encoded, corpus.size),
        }
        if given.cpu:
            made = dict.fromkeys(measures, samples) | {"stream": BATCH * (AHEAD + given.batches)}
            measures = {name: _by_cpu_time(measure, made[name]) for name, measure in measures.items()}
            return list(_rows(corpus, threads, interleaved(measures, given.rounds), "images a CPU second"))
        arguments = [shards, str(samples), str(corpus.size), str(BATCH), str(threads)]
        command = [sys.executable, "-m", "benchmarks.peers"]
        alone = [sys.executable, "-m", "benchmarks.reading", "--stream", shards, str(corpus.size)]
        processes = [stack.enter_context(MeasuringProcess(alone)) for _ in range(threads if threads > 1 else 0)]
        peers = {name: stack.enter_context(MeasuringProcess([*command, name, *arguments])) for name in _DECODERS}
        measures |= {decoder: peer.of(given.batches) for decoder, peer in peers.items()}
        if processes:
            measures["processes"] = lambda: sum(pool.map(lambda process: process.of(given.batches)(), processes))
        return list(_rows(corpus, threads, interleaved(measures, given.rounds), "images/s"))


def _by_cpu_time(measure: Callable[[], float], images: int) -> Callable[[], float]:
    """Images a second of this process' CPU time; `images` is how many a measure makes in all, ahead ones too."""

    def run() -> float:
        began = time.process_time()
        measure()
        return images / (time.process_time() - began)

    return run


def _rows(corpus: Corpus, threads: int, rates: dict[str, list[float]], unit: str) -> Iterator[Row]:
    figure = f"{corpus.name}, {corpus.size} px, {threads} thread{'s' * (threads > 1)}"
    own = rates["stream"]
    for name, goal in {"bare": corpus.bare, "cropping": corpus.bare, "better": corpus.better}.items():
        if goal is not None:
            value = sorted(own)[len(own) // 2]
            reason, ratio = _REDUCED if name == "better" else corpus.reason, ratio_of(own, rates[name])
            yield Row(figure, f"the {name} decode loop", ratio, goal, unit=unit, value=value, reason=reason)
    for decoder, goal in zip(_DECODERS, (corpus.given, corpus.as_it_comes), strict=True):
        if decoder not in rates:
            return
        name = "our decoder" if decoder == "ours" else decoder
        yield Row(figure, f"torch's DataLoader, {name}", ratio_of(own, rates[decoder]), goal, reason=corpus.reason)
    if "processes" in rates:
        over = f"{threads} processes with a stream of one thread each"
        yield Row(figure, over, ratio_of(own, rates["processes"]), corpus.bare, reason=_LOCK)


def _serve(shards: str, size: int) -> None:
    """Print the rate of a stream of one thread for each number of batches that standard input gives."""
    with closing(_stream(pin([CorpusSpec(url=shards)]), size, 1)) as stream:
        for line in sys.stdin:
            print(rate(iter(stream.next, None), BATCH, int(line)), flush=True)


def _stream(pinned: Pin, size: int, threads: int) -> Stream:
    layout = make_layout(seed=7, batch=BATCH, group=8, lanes="auto", window="auto", spans="auto", corpora=pinned.shapes)
    data = Data.model_validate({"corpora": [{"url": pinned.corpora[0].url}], "image_size": size})
    return Stream(Order(layout), pinned, data, seed=7, views=1, ranks=1, rank=0, first_step=0, threads=threads)


def boxes_of(encoded: Sequence[bytes]) -> Ints:
    """The crop of each image (n, 4), as a stream draws it."""
    sides = np.array([decode(data, 10**8).shape[:2] for data in encoded])
    return crop_boxes(draw_crops(7, np.arange(len(encoded)), 1, Crop()), sides[:, 0], sides[:, 1])[:, 0]


def _loop(
    pool: ThreadPoolExecutor, decode_all: Callable[[Sequence[_Image], int], int], images: Sequence[_Image], size: int
) -> float:
    chunks = [images[first : first + _CHUNK] for first in range(0, len(images), _CHUNK)]
    began = time.monotonic()
    count = sum(pool.map(lambda chunk: decode_all(chunk, size), chunks))
    return count / (time.monotonic() - began)


def _decode_whole(chunk: Sequence[bytes], size: int) -> int:
    for data in chunk:
        cv2.resize(decode(data, 10**8), (size, size), interpolation=cv2.INTER_CUBIC)
    return len(chunk)


def _decode_cropped(chunk: Sequence[tuple[bytes, list[int]]], size: int) -> int:
    view = np.empty((3, size, size), np.uint8)
    for data, box in chunk:
        resize(decode(data, 10**8), box, view)
    return len(chunk)


def _decode_reduced(chunk: Sequence[bytes], size: int) -> int:
    """The better loop; what is no JPEG is decoded as in the bare one."""
    buffer, view = np.empty(0, np.uint8), np.empty((size, size, 3), np.uint8)
    for data in chunk:
        if data[:2] != b"\xff\xd8":
            _decode_whole([data], size)
            continue
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        scale = 2 if min(height, width) >= 2 * size else 1
        low, across = -(-height // scale), -(-width // scale)
        if len(buffer) < low * across * 3:
            buffer = np.empty(low * across * 3, np.uint8)
        limits = {"min_height": low, "min_width": across} if scale > 1 else {}
        pixels = simplejpeg.decode_jpeg(data, colorspace="RGB", buffer=buffer, **limits)
        cv2.resize(pixels, (size, size), view, interpolation=cv2.INTER_LINEAR)
    return len(chunk)


if __name__ == "__main__":
    main()
