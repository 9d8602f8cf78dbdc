"""The shards of a run when another attempt begins: the same files, or other files that hold the same samples."""

import operator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.checksums import index_checked
from gmml_cluster.data.corpus.index import Header
from gmml_cluster.data.corpus.listing import ShardFile, stat_all
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.corpus.pinned import PinnedCorpus, PinnedShard, PinnedShards
from gmml_cluster.errors import DataError, Fault, ShardChanged
from gmml_cluster.store.protocol import Store

_INDEXED_AT_ONCE = 8


def repin(pinned: Pin, indexes: Store) -> Pin:
    """The pin with the present sizes and versions of its shards, if their samples are those that were pinned.

    It is the same object where none has another.

    Equal lengths, CRCs and classes prove it: those of an index of just the present version, else of every byte.

    Raises:
        ShardChanged: a shard holds other samples, is gone, or its samples had no CRCs that could prove anything.
        StorageError: a store does not answer.
    """
    now = [_corpus_repinned(corpus, indexes) for corpus in pinned.corpora]
    return pinned if all(map(operator.is_, now, pinned.corpora)) else Pin(now, indexes)


def _corpus_repinned(corpus: PinnedCorpus, indexes: Store) -> PinnedCorpus:
    """The corpus itself where no shard has another size or version."""
    held = list(corpus.shards)
    listed = {file.url: file for file in stat_all((shard.file.url for shard in held), corpus.image)}
    differing = [number for number, shard in enumerate(held) if listed.get(shard.file.url) != shard.file]
    if not differing:
        return corpus
    with ThreadPoolExecutor(_INDEXED_AT_ONCE) as pool:
        found = pool.map(lambda n: _repinned(held[n], listed.get(held[n].file.url), indexes), differing)
        for number, shard in zip(differing, found, strict=True):
            held[number] = shard
    return replace(corpus, shards=PinnedShards.of(held, corpus.image))


def _repinned(shard: PinnedShard, now: ShardFile | None, indexes: Store) -> PinnedShard:
    if now is None:
        raise ShardChanged(Fault(shard.file.url, "is gone; a run's shards never change", "put it back"))
    known = shard if shard.crcs else _proof(shard, index.stored_header(shard.file, indexes))
    if not known.crcs:
        what = "its size or version changed, and it had no CRCs which could prove that its samples are the same"
        raise ShardChanged(Fault(shard.file.url, what, "put the old file back, with its time, or start a new run"))
    try:
        found = _header_of_version(now, indexes) or index_checked(now, indexes).header
    except DataError as error:
        problem = f"cannot be indexed any more ({error}); it was whole when the run began"
        raise ShardChanged(Fault(shard.file.url, problem, "put it back or start a new run")) from error
    if found.crcs != known.crcs or (known.labels and found.labels != known.labels):
        what = "holds other samples than when the run began; a run's shards never change"
        raise ShardChanged(Fault(shard.file.url, what, "put it back or start a new run"))
    return replace(known, file=now)


def _proof(shard: PinnedShard, header: Header | None) -> PinnedShard:
    """The shard with the CRCs that were made after it was pinned, of just the version that was pinned."""
    return shard if header is None else replace(shard, crcs=header.crcs, labels=header.labels)


def _header_of_version(shard: ShardFile, indexes: Store) -> Header | None:
    """The checked index of the shard's present version; one that fits by size may be of older bytes."""
    found = (index.find_header(shard, indexes), index.stored_header(shard, indexes))
    return next((h for h in found if h is not None and h.checked and h.version == shard.version), None)
