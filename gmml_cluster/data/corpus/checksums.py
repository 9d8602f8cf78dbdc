"""Checked indexes: each shard is read in full once, for a CRC32C of every image. `gmml corpus index` makes them."""

import secrets
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.index import ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile, split_url, store_of
from gmml_cluster.errors import DataError, Fault, GmmlError, PreflightError, StorageError
from gmml_cluster.store.protocol import Store

_INDEXED_AT_ONCE = 8


def index_checked(shard: ShardFile, indexes: Store | None) -> ShardIndex:
    """Read every byte of a shard, and put its index into `indexes`, or beside the shard where that is None.

    Raises:
        DataError: the shard is damaged, or changed meanwhile.
        StorageError: it cannot be read, or its index not be written.
    """
    made = index.build(shard, checked=True)
    folder, name = split_url(shard.url)
    if store_of(folder).stat(name).version != shard.version:
        raise DataError(f"{shard.url}: changed while it was indexed; a shard never changes; index it when it is whole")
    index.put(made, shard, indexes)
    return made


def index_all(shards: Sequence[ShardFile], indexes: Store | None) -> Iterator[bool | GmmlError]:
    """Index the shards that lack a checked index, several at once.

    Yields:
        For each shard in order: whether its index was made now, or the fault that hindered it.
    """

    def one(shard: ShardFile) -> bool | GmmlError:
        try:
            stands = index.find_header(shard, indexes)
            if stands is not None and stands.checked:
                return False
            index_checked(shard, indexes)
        except GmmlError as fault:
            return fault
        return True

    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool:
        try:
            yield from pool.map(one, shards)
        finally:
            pool.shutdown(cancel_futures=True)


def demand_writable(shards: Sequence[ShardFile], indexes: Store | None) -> None:
    """Write and delete a trifle wherever indexes will be put, before anything is read.

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
            told = f"no index can be put here ({error}); name a root with --root, they go to .corpora below it"
            raise PreflightError(Fault(store.url, told)) from error
