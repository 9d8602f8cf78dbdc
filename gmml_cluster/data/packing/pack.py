"""`gmml corpus pack SRC DST`: images shuffled into tar shards with indexes, by any number of workers.

Which samples a shard has is a function of the source's listing, the seed and the options, so shards are made in any
order, by anyone, and again after a crash: equal sources and options give equal bytes.
"""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import numpy as np

from gmml_cluster.data.packing.destination import Destination, PackingPlan
from gmml_cluster.data.packing.report import Packed, Remark, ShardRecord, Tally
from gmml_cluster.data.packing.shard import Rules, ShardTask, pack_shard
from gmml_cluster.data.packing.source import ImageSource, Listing
from gmml_cluster.data.random.feistel import permutation_key, permute
from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.reader.decode import decoder_name
from gmml_cluster.data.workers import InProcess, Workers
from gmml_cluster.errors import DataError, Fault, GmmlError
from gmml_cluster.progress import progress
from gmml_cluster.spec.job import Data
from gmml_cluster.wording import counted

__all__ = ["MAX_PIXELS", "Packed", "Remark", "pack"]

MAX_PIXELS: int = Data.model_fields["max_pixels"].default
_FORMAT = 1
"""Raised whenever the same source and options give other bytes."""


def pack(
    source: Listing,
    destination: str,
    *,
    shard_samples: int = 1000,
    seed: int = 0,
    prefix: str = "shard",
    max_pixels: int = MAX_PIXELS,
    refuse_damaged: bool = False,
    short_side: int | None = None,
    workers: Workers | None = None,
) -> Packed:
    """Shuffle images into shards at DST, with their indexes, a report, and `classes.txt` where classes have names.

    Images go in as they are, byte for byte, unless they are shrunk; one that cannot be decoded is left out and named in
    the result, so its shard has fewer samples. After a fault or a crash the same call makes the shards that are
    missing, and a call for a corpus that is complete returns what the first one did.

    Args:
        source: the images; their order is part of what decides the bytes.
        destination: a folder that does not exist or is empty, or an `s3://` URL below which there is nothing; or what
            the same call has begun there.
        shard_samples: samples a shard; the last has what is left.
        seed: of the shuffle.
        prefix: first part of the shards' names.
        max_pixels: an image with more is left out.
        refuse_damaged: whether an image that decodes although its JPEG data is damaged is left out.
        short_side: an image whose shorter side is longer is shrunk to it; None packs all as they are.
        workers: what makes the shards; this process where it is None.

    Raises:
        DataError: there is no image, or the source is damaged.
        SpecError: DST holds something else.
        StorageError: the store fails.
        WorkerLost: a worker died.
    """
    rules = Rules(max_pixels, refuse_damaged, short_side)
    plan = _plan(source, rules, shard_samples, seed, prefix)
    at = Destination(destination, plan)
    if at.packed is not None:
        return at.packed
    by = workers or InProcess()
    with _kept(at):
        found = source.read(at.scratch, by)
        shards = _Shards(found, at, plan, rules, shard_samples, seed)
        tally = Tally([plan.shard(number) for number in range(shards.count)])
        with progress("packing", len(found.items)) as advance:
            for record in shards.records(by):
                tally.add(record)
                advance(shards.size(record.number))
        packed = tally.result(found.classes, found.notes)
        if not packed.samples:
            at.give_up(everything=True)
            raise DataError(_none(destination, packed, len(found.items)))
        at.finish(packed)
    return packed


@dataclass(frozen=True)
class _Shards:
    """The shards that a source makes, at their destination."""

    source: ImageSource
    at: Destination
    plan: PackingPlan
    rules: Rules
    samples: int
    """Of each but the last, which has what is left."""
    seed: int

    @property
    def count(self) -> int:
        return -(-len(self.source.items) // self.samples)

    def size(self, number: int) -> int:
        """Images that the shard of this number is made of."""
        return min(self.samples, len(self.source.items) - number * self.samples)

    def records(self, workers: Workers) -> Iterator[ShardRecord]:
        """Of all shards: those that stand first, then the others as the workers make them."""
        standing = set[int]()
        for record in self.at.standing(self.count):
            standing.add(record.number)
            yield record
        missing = (number for number in range(self.count) if number not in standing)
        yield from workers.map(pack_shard, self._tasks(missing))

    def _tasks(self, numbers: Iterator[int]) -> Iterator[ShardTask]:
        """The shards of these numbers; the shuffle is arithmetic, so no list of all samples is made."""
        zero, samples = np.zeros(1, np.int64), len(self.source.items)
        order = partial(permute, permutation_key(self.seed, Purpose.PACK, (zero, zero, zero, zero)))
        for number in numbers:
            positions = number * self.samples + np.arange(self.size(number))
            items = self.source.take(order(np.full(len(positions), samples), positions))
            yield ShardTask(number, self.plan.shard(number), items, self.at.url, self.plan.digest, self.rules)


def _plan(source: Listing, rules: Rules, shard_samples: int, seed: int, prefix: str) -> PackingPlan:
    settings = {
        "format": _FORMAT,
        "files": source.digest or secrets.token_hex(16),  # images that were made here cannot be known again
        "seed": seed,
        "shard_samples": shard_samples,
        "prefix": prefix,
        **vars(rules),
        "decoder": decoder_name(),
    }
    return PackingPlan(settings, prefix)


@contextmanager
def _kept(at: Destination) -> Iterator[None]:
    """Keep what stands when the block fails, and nothing where nothing stands."""
    try:
        at.begin()
        yield
    except BaseException:
        with suppress(GmmlError):  # of the store, which has failed already
            at.give_up()
        raise


def _none(destination: str, packed: Packed, images: int) -> Fault:
    first = f" (the first: {packed.left_out[0]})" if packed.left_out else ""
    what = f"{counted(images, 'image')}, none of which can be decoded{first}"
    return Fault(destination, f"{what}; images are .jpg, .jpeg, .png or .webp", "check the source")
