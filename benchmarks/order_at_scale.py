"""What the order of samples costs for a huge corpus, and how well it shuffles: `python -m benchmarks.order_at_scale`.

Synthetic pins of as many shards hold more and more samples: a process of its own reads each pin, makes the order and
locates a rank's samples of a step, at the first step and of a resume in the middle of the run. Then 131,072 ranks of a
job are looked at in steps drawn at random: when their lanes open windows, and how many spans two ranks read in one
epoch. Last, batches and groups of ImageNet-21k's size are compared with those of a full permutation.

Classes are those of a corpus that is sorted by class over its shards, as folders list it: the worst there is.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Ratio, Row, markdown, write_json
from gmml_cluster.data.corpus.columns import Column
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.corpus.pinned import PinnedCorpus, PinnedShards
from gmml_cluster.data.reader.order import Order
from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout, make_layout

RANKS = 131_072
GROUP = 8
BATCH = RANKS * GROUP
SIZES = (10**9, 10**11)
_STEPS = 64
_CLASSES = 1000

Ints = NDArray[np.int64]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=10**7)
    parser.add_argument("--json", type=Path, help="also write the rows here")
    given = parser.parse_args()
    rows = [*cost_rows(given.shards), *balance_rows(), *shuffle_rows()]
    print(markdown(rows))
    if given.json:
        write_json(rows, given.json)


def cost_rows(shards: int) -> Iterator[Row]:
    """Time and memory of a start and a resume, of each size over the smallest."""
    with tempfile.TemporaryDirectory() as folder:
        found = [_measured(Path(folder), samples, shards) for samples in SIZES]
    units = {
        "pin_s": "s of CPU",
        "layout_s": "s of CPU",
        "first_s": "s of CPU",
        "resumed_s": "s of CPU",
        "again_ms": "ms of CPU",
        "peak_mib": "MiB",
    }
    names = {
        "pin_s": "read the pin",
        "layout_s": "make the order",
        "first_s": "locate a rank's first step",
        "resumed_s": "locate its step in the middle of the run",
        "again_ms": "locate the step after that",
        "peak_mib": "memory of a rank at its peak",
    }
    for key, what in names.items():
        ratio = found[-1][key] / found[0][key]
        figure = f"{what}, {SIZES[-1]:.0e} samples, {shards:.0e} shards"
        over = f"{SIZES[0]:.0e} samples"
        yield Row(figure, over, Ratio(ratio, ratio, ratio), at_most=1.5, unit=units[key], value=found[-1][key])


def _measured(folder: Path, samples: int, shards: int) -> dict[str, float]:
    path = folder / "pin"
    counts = np.diff(np.arange(shards + 1) * samples // shards)
    path.write_bytes(synthetic_pin(counts).to_bytes())
    command = [sys.executable, "-c", "from benchmarks.order_at_scale import start; start()", str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def synthetic_pin(counts: Ints) -> Pin:
    """A pin of shards that exist nowhere."""
    n = len(counts)
    columns = {
        "url": Column("decimal", [np.arange(n)], n),
        "size": Column("number", [counts * 100_000], n),
        "version": Column("hex", [np.zeros((n, 16), np.uint8)], n),
        "samples": Column("number", [counts], n),
        "crcs": Column("hex", [np.zeros((n, 32), np.uint8)], n),
        "labels": Column("hex", [np.zeros((n, 32), np.uint8)], n),
    }
    return Pin([PinnedCorpus("s3://corpus", 1.0, "", PinnedShards(columns, "s3://corpus/", ""))])


def start() -> None:
    """What a rank does with the pin of the argument; prints seconds and MiB."""
    found, data = {}, Path(sys.argv[1]).read_bytes()

    def timed(name: str, make: Callable[[], object], per_s: float = 1.0) -> object:
        began = time.process_time()  # nothing waits, and another's load does not show
        made = make()
        found[name] = (time.process_time() - began) * per_s
        return made

    pinned = timed("pin_s", lambda: Pin.from_bytes(data))
    assert isinstance(pinned, Pin)
    layout = make_layout(seed=1, batch=BATCH, group=GROUP, lanes=RANKS, spans=1, corpora=pinned.shapes)
    order = timed("layout_s", lambda: Order(layout))
    assert isinstance(order, Order)
    middle = max(1, layout.corpora[0].samples * 3 // 2 // BATCH)  # of three epochs
    for name, step, per_s in (("first_s", 0, 1), ("resumed_s", middle, 1), ("again_ms", middle + 1, 1e3)):
        numbers = order.rank_numbers(step, RANKS, RANKS // 2)
        timed(name, partial(order.locate, numbers), per_s)
    found["peak_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(json.dumps(found))


def balance_rows() -> Iterator[Row]:
    """What 131,072 ranks read, and when."""
    samples, shards = 10**10, 10**6
    layout = make_layout(
        seed=1, batch=BATCH, group=GROUP, lanes=RANKS, corpora=[CorpusShape(1.0, [samples // shards] * shards)]
    )
    order, draw = Order(layout), np.random.default_rng(1)
    steps = np.sort(draw.choice(samples // BATCH - layout.window, 16, replace=False))
    opening = np.array([_opening(order, int(step)) for step in steps])
    even = RANKS * GROUP / layout.window
    yield Row(
        f"reads over time: ranks that open a window in one step, {RANKS:,} ranks",
        "an even number a step",
        Ratio(*(float(of(opening) / even) for of in (np.median, np.min, np.max))),
        at_most=1.05,
        unit="ranks in the fullest of 16 steps",
        value=float(opening.max()),
    )
    drawn = np.concatenate([order.locate(np.arange(BATCH // 8) * 8 + int(step) * BATCH).y for step in steps[:8]])
    most = int(np.unique(drawn, return_counts=True)[1].max())
    yield Row(
        "ranks and steps that draw an image of an epoch, at most, in what was looked at",
        "one",
        Ratio(most, most, most),
        at_most=1,
    )
    yield _shared_row(order, layout)


def _opening(order: Order, step: int) -> int:
    """Lanes whose window opens with this step."""
    numbers = (step * RANKS + np.arange(RANKS)) * GROUP
    y = order.locate(numbers).y
    return int((order.openings(0, 0, y).first_step == step).sum())


def _shared_row(order: Order, layout: SampleLayout) -> Row:
    """Spans that lanes of two ranks read, as a lane's stretch ends within one."""
    rows = layout.corpora[0].samples // BATCH
    ends = np.cumsum(np.full(len(layout.corpora[0].shards) * layout.spans, layout.corpora[0].shards[0] // layout.spans))
    edges = np.arange(1, RANKS) * rows * GROUP
    within = ends[np.searchsorted(ends, edges, side="right") - 1] != edges
    share = 1 + float(within.sum()) / len(ends)
    return Row(
        f"ranks that read a span in one epoch, {RANKS:,} ranks, {len(ends):,} spans",
        "one",
        Ratio(share, share, share),
        at_most=1.1,
        unit="ranks a span",
        value=share,
    )


def shuffle_rows() -> Iterator[Row]:
    """Batches and groups of a corpus of ImageNet-21k's size, with `auto`, over those of a full permutation."""
    shards = 2048
    counts = np.diff(np.arange(shards + 1) * 14_197_122 // shards)
    layout = make_layout(seed=1, batch=4096, group=GROUP, corpora=[CorpusShape(1.0, counts.tolist())])
    order, samples = Order(layout), int(counts.sum())
    draw, starts = np.random.default_rng(2), np.cumsum(counts)
    steps = draw.choice(samples // layout.batch, _STEPS, replace=False)
    ours = [order.locate(step * layout.batch + np.arange(layout.batch)).y for step in steps]
    full = [draw.choice(samples, layout.batch, replace=False) for _ in steps]

    def shard(y: Ints) -> Ints:
        return np.searchsorted(starts, y, side="right")

    def by_class(y: Ints) -> Ints:
        return y * _CLASSES // samples

    setting = f"L {layout.lanes}, W {layout.window}, K {layout.spans}"
    for what, of in (("shards", shard), ("classes of a corpus sorted by class", by_class)):
        for where, cut in (("batch of 4,096", layout.batch), (f"group of {GROUP}", GROUP)):
            mine, theirs = ([_distinct(of(y), cut) for y in batches] for batches in (ours, full))
            ratios = [a / b for a, b in zip(mine, theirs, strict=True)]
            yield Row(
                f"{what} in a {where}, {setting}",
                "a full permutation",
                Ratio(float(np.median(ratios)), min(ratios), max(ratios)),
                at_least=0.1,
                unit="",
                value=float(np.median(mine)),
            )
    at = np.sort(draw.choice(samples, 200_000, replace=False))
    correlation = abs(float(np.corrcoef(at, order.locate(at).y)[0, 1]))
    spans = shards * layout.spans
    expected = float(np.sqrt(2 / np.pi / spans))
    yield Row(
        "correlation of an epoch's order with the corpus', absolute",
        f"of a permutation of {spans:,} things, on average",
        Ratio(correlation / expected, correlation / expected, correlation / expected),
        at_most=3,
        unit="",
        value=correlation,
    )


def _distinct(values: Ints, cut: int) -> float:
    """Distinct values in each run of `cut`, on average."""
    ordered = np.sort(values.reshape(-1, cut), axis=1)
    return float((np.diff(ordered, axis=1) != 0).sum(1).mean() + 1)


if __name__ == "__main__":
    main()
