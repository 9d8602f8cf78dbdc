"""What images cost that lie in parquet files, over tars of the same: `python -m benchmarks.parquet_cost`.

Files are written by the pyarrow that is installed, in row groups of 100, as `datasets` asks it to: up to 4.5 with
snappy and a dictionary, from 4.6 on with neither. Reading is a fetch of all images in a shuffled order from the page
cache, as training does it. The index is made by a process of its own for each file; its memory has pyarrow's import.
"""

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow as arrow
from pyarrow import parquet

from benchmarks.reading import DATA
from benchmarks.rows import interleaved, ratio_of
from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import CorpusUrl, pin
from gmml_cluster.data.packing.tarball import write_tar
from gmml_cluster.data.reader.fetch import Fetcher, Wanted

_GROUP = 100
_TOGETHER = 32
KINDS = {"snappy": {}, "plain": {"compression": "none", "use_dictionary": False}}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    images = photographs()
    with tempfile.TemporaryDirectory() as folder:
        urls = written(Path(folder), images)
        micros = interleaved({kind: partial(fetched_us, url, len(images)) for kind, url in urls.items()}, given.rounds)
        print(
            f"| {len(images)} photographs | bytes read over theirs | fetch, CPU us an image | over the tar's |", end=""
        )
        print(" index, CPU ms | MiB |\n|---|---|---|---|---|---|")
        for kind, url in urls.items():
            each, over = statistics.median(micros[kind]), ratio_of(micros[kind], micros["tar"]).median
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                ratio, seconds, peak = pool.submit(indexed, url).result()
            print(f"| {kind} | {ratio:.2f} | {each:.0f} | {over:.2f} | {1e3 * seconds:.0f} | {peak:.0f} |")


def photographs() -> list[bytes]:
    """The encoded photographs beside the repository."""
    pinned = pin([CorpusUrl(str(DATA / "photos"))])
    return Fetcher(pinned).fetch([Wanted(0, y) for y in range(pinned.shapes[0].samples)])


def written(folder: Path, images: list[bytes]) -> dict[str, str]:
    """The photographs in each kind of shard."""
    write_tar(folder / "x.tar", ((f"{y:06d}.jpg", data) for y, data in enumerate(images)))
    table = arrow.table({"image": [{"bytes": data, "path": f"{y}.jpg"} for y, data in enumerate(images)]})
    for kind, options in KINDS.items():
        parquet.write_table(table, folder / f"{kind}.parquet", row_group_size=_GROUP, **options)
    return {"tar": f"{folder}/x.tar", **{kind: f"{folder}/{kind}.parquet" for kind in KINDS}}


def fetched_us(url: str, count: int) -> float:
    """CPU time of a fetch of all images, us an image."""
    pinned = pin([CorpusUrl(url)], checked=True)
    fetcher, order = Fetcher(pinned), np.random.default_rng(0).permutation(count).tolist()
    fetcher.fetch([Wanted(0, 0)])
    began = time.process_time()
    for first in range(0, count, _TOGETHER):
        fetcher.fetch([Wanted(0, y) for y in order[first : first + _TOGETHER]])
    took = time.process_time() - began
    fetcher.close()
    return 1e6 * took / count


def indexed(url: str) -> tuple[float, float, float]:
    """Bytes that are read over those of the images; CPU seconds of the index, and MiB that it added to the process."""
    (shard,) = list_shards(url)
    before, began = peak_kib(), time.process_time()
    made = index.build(shard, checked=True)
    took, peak = time.process_time() - began, peak_kib() - before
    stored = made.records["length"] if made.excerpts is None else made.excerpts["length"]
    return float(stored.sum() / made.records["length"].sum()), took, peak / 2**10


def peak_kib() -> int:
    """The most memory that this process has had, KiB; `getrusage` has its parent's too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1])


if __name__ == "__main__":
    main()
