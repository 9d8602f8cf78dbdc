"""Checked indexes: each shard is read in full once, for a CRC32C of every image. `gmml corpus index` makes them."""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.index import Header, ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile, split_url, store_of
from gmml_cluster.data.workers import InProcess, Workers
from gmml_cluster.errors import DataError, Fault, GmmlError, PreflightError, StorageError
from gmml_cluster.store.protocol import Store

_INDEXED_AT_ONCE = 8


@dataclass(frozen=True)
class IndexedShard:
    """A shard that has a checked index."""

    shard: ShardFile
    made: bool
    """Whether its index was made now."""
    header: Header


def index_checked(shard: ShardFile, indexes: Store | None) -> ShardIndex:
    """Read every byte of a shard, and put its index into `indexes`, or beside the shard where that is None.

    Raises:
        DataError: the shard is damaged, or changed meanwhile.
        StorageError: it cannot be read, or its index not be written.
    """
    made = index.build(shard, checked=True)
    folder, name = split_url(shard.url)
    if store_of(folder).stat(name).version != shard.version:
        what = "changed while it was indexed; a shard never changes"
        raise DataError(Fault(shard.url, what, "index it when it is complete"))
    index.put(made, shard, indexes)
    return made


@dataclass(frozen=True)
class IndexTask:
    """Shards to be indexed; picklable."""

    shards: tuple[ShardFile, ...]
    indexes: str | None
    """URL of the store that their indexes go to; None puts each beside its shard."""
    anew: bool

    @property
    def name(self) -> str:
        """URL of the first shard, and how many follow."""
        more = len(self.shards) - 1
        return f"{self.shards[0].url}{f' and {more} more' if more else ''}"


def index_shards(task: IndexTask) -> list[IndexedShard | GmmlError]:
    """Index the shards that lack a checked index of just their version; for each its index, or what prevented it.

    An index of another version is made again, even where it has the shard's size: classes may be others.
    """
    indexes = None if task.indexes is None else store_of(task.indexes)

    def one(shard: ShardFile) -> IndexedShard | GmmlError:
        try:
            found = None if task.anew else _find_valid(shard, indexes)
            if found is not None and found.checked and found.version == shard.version:
                return IndexedShard(shard, False, found)
            return IndexedShard(shard, True, index_checked(shard, indexes).header)
        except GmmlError as error:
            return error

    # threads, although a worker is one core: a store answers a read in 50 ms and more
    with ThreadPoolExecutor(len(task.shards)) as pool:
        try:
            return list(pool.map(one, task.shards))
        finally:
            pool.shutdown(cancel_futures=True)


def index_all(
    shards: Sequence[ShardFile], indexes: Store | None, *, anew: bool = False, workers: Workers | None = None
) -> Iterator[IndexedShard | GmmlError]:
    """Index the shards that lack a checked index of just their version, several at once.

    Args:
        shards: what is indexed.
        indexes: where the indexes are put; None puts them beside their shards.
        anew: whether all are indexed again.
        workers: what reads the shards; this process where it is None.

    Yields:
        For each shard, in any order: its index, or the error that prevented it.
    """
    url = None if indexes is None else indexes.url
    starts = range(0, len(shards), _INDEXED_AT_ONCE)
    tasks = (IndexTask(tuple(shards[start : start + _INDEXED_AT_ONCE]), url, anew) for start in starts)
    for found in (workers or InProcess()).map(index_shards, tasks):
        yield from found


def _find_valid(shard: ShardFile, indexes: Store | None) -> Header | None:
    """The header of the shard's index; a damaged index counts as none, as it is about to be replaced."""
    try:
        found = index.find(shard, indexes)
    except DataError:
        return None
    return None if found is None else found.header


def demand_writable(shards: Sequence[ShardFile], indexes: Store | None) -> None:
    """Write and delete an empty object wherever indexes will be put, before anything is read.

    Raises:
        PreflightError: it cannot be written there.
    """
    stores = {store_of(split_url(shard.url)[0]) for shard in shards} if indexes is None else {indexes}
    for store in stores:
        name = f".probe/{secrets.token_hex(8)}"
        try:
            store.put(name, b"")
            store.delete([name])
        except StorageError as error:
            problem = f"no index can be put here ({error})"
            hint = "name a root with --root, they go to .corpora below it"
            raise PreflightError(Fault(store.url, problem, hint)) from error
