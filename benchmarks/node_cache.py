"""What a node reads from the store behind the first epoch, by its cache's limit: `python -m benchmarks.node_cache`.

The cache itself, over a made-up corpus of equal samples whose store answers with zeros; beside it the same reads
through a cache that drops what was not used for longest. Shares of bytes, so nothing depends on the machine.
"""

import argparse
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cachetools import LRUCache

from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pinned import PinnedShard, PinnedShards
from gmml_cluster.data.node_cache.cache import NodeCache
from gmml_cluster.data.node_cache.plan import NodeUsePlan
from gmml_cluster.data.reader.order import Order
from gmml_cluster.plan.sample_layout import CorpusShape, make_layout
from gmml_cluster.wording import counted

SAMPLE_BYTES, BLOCK_BYTES = 100, 1000
"""A tenth of a block, as a photograph is of a MiB."""
BATCH, LANES, WINDOW = 64, 8, 64
LIMITS = (0.125, 0.25, 0.5, 0.75, 1.0)


def main() -> None:
    """Count and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=16)
    parser.add_argument("--samples", type=int, default=500, help="of a shard")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--nodes", type=int, default=1, help="the table is of the first of them, with one rank")
    given = parser.parse_args()
    shards = [
        PinnedShard(ShardFile(f"s3://bucket/{at}.tar", given.samples * SAMPLE_BYTES, "1"), given.samples, "crcs")
        for at in range(given.shards)
    ]
    shape = CorpusShape(1.0, (given.samples,) * given.shards)
    order = Order(make_layout(seed=7, batch=BATCH, group=8, lanes=LANES, window=WINDOW, corpora=[shape]))
    reads = _reads(order, given.nodes, given.epochs * shape.samples // BATCH)
    second = sum(step < shape.samples // BATCH for step, _ in reads)
    of_epochs = (len(reads) - second) * SAMPLE_BYTES
    print(
        f"{len(shards)} shards of {given.samples} samples, {given.epochs} epochs, {counted(given.nodes, 'node')}; ",
        end="",
    )
    print(f"open windows {LANES * WINDOW / given.nodes / shape.samples:.1%} of the corpus\n")
    print(
        "| limit over the corpus | read from the store behind the first epoch, over what is used: by the order ", end=""
    )
    print("| by the latest use |\n|---|---|---|")
    for share in LIMITS:
        limit = round(share * shape.samples * SAMPLE_BYTES)
        ours = _ours(order, shards, given.nodes, reads, second, limit)
        latest = _latest_used(reads, second, given.samples, limit // BLOCK_BYTES)
        print(f"| {share:.1%} | {ours / of_epochs:.2f} | {latest / of_epochs:.2f} |")


def _reads(order: Order, nodes: int, steps: int) -> list[tuple[int, int]]:
    """(step, y) of all that the first node's rank draws."""
    found = []
    for step in range(steps):
        where = order.locate(order.rank_numbers(step, nodes, 0))
        found += [(step, y) for y in where.y.tolist()]
    return found


def _ours(
    order: Order, shards: list[PinnedShard], nodes: int, reads: list[tuple[int, int]], second: int, limit: int
) -> int:
    """Bytes read from the store from the read of number `second` on."""
    pin: Any = SimpleNamespace(corpora=[SimpleNamespace(shards=PinnedShards.of(shards, ""))])
    fetched: list[int] = []

    def fetch(url: str, start: int, length: int) -> bytes:
        fetched.append(length)
        return bytes(length)

    with tempfile.TemporaryDirectory() as folder:
        cache = NodeCache(Path(folder), limit, NodeUsePlan(order, pin, nodes, range(1)), block_bytes=BLOCK_BYTES)
        for number, (step, y) in enumerate(reads):
            if number == second:
                fetched.clear()
            cache.step = step
            shard, index = divmod(y, shards[0].samples)
            cache.read(shards[shard], index * SAMPLE_BYTES, SAMPLE_BYTES, fetch)
    return sum(fetched)


def _latest_used(reads: list[tuple[int, int]], second: int, samples: int, blocks: int) -> int:
    held: LRUCache[tuple[int, int], bool] = LRUCache(blocks)
    missed = 0
    for number, (_, y) in enumerate(reads):
        shard, index = divmod(y, samples)
        key = shard, index * SAMPLE_BYTES // BLOCK_BYTES
        missed += number >= second and key not in held
        held[key] = held.get(key, True)
    return missed * BLOCK_BYTES


if __name__ == "__main__":
    main()
