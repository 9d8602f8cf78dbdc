"""Images of tar shards, plain or compressed, to be packed again."""

import bz2
import gzip
import lzma
import shutil
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pin import CorpusUrl, Pin, pin
from gmml_cluster.data.corpus.summary import NO_CLASS, Summary, summarise
from gmml_cluster.data.corpus.tar import BLOCK_BYTES, RangeFile
from gmml_cluster.data.packing.source import Item, Source, distinct, key_of, legible
from gmml_cluster.data.reader.fetch import Fetcher, Wanted, read_range
from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.wording import counted

_OPENERS: Mapping[str, Any] = {"gz": gzip.open, "xz": lzma.open, "bz2": bz2.open}


def read_shards(url: str, image: str | None) -> Source:
    """The samples of shards, each checked against the CRC that its shard's index has.

    Raises:
        DataError: a shard or index is damaged, or an index has other classes than its shard.
        StorageError: a store does not answer.
    """
    pinned = pin([CorpusUrl(url, image)], checked=False)
    return Source(tuple(distinct(_items(pinned, {}))), notes=(*_unchecked(pinned), *_notes(pinned)))


def read_archives(files: Sequence[ShardFile], image: str | None) -> Source:
    """The samples of compressed tars, which are unpacked into the temporary folder (TMPDIR) until they are packed.

    Raises:
        DataError: an archive is damaged.
        StorageError: a store does not answer, or the temporary folder is full.
    """
    scratch = TemporaryDirectory(prefix="gmml-unpacked-")
    paths = [Path(scratch.name, f"{number:06d}.tar") for number in range(len(files))]
    for file, path in zip(files, paths, strict=True):
        _decompress(file, path)
    pinned = pin([CorpusUrl(scratch.name, image)], checked=False)
    origins = {str(path): file.url for file, path in zip(files, paths, strict=True)}
    return Source(tuple(distinct(_items(pinned, origins))), notes=tuple(_notes(pinned)), scratch=scratch)


def _decompress(file: ShardFile, path: Path) -> None:
    source = RangeFile(partial(read_range, file.url), file.size, BLOCK_BYTES)
    opened = next(opener for suffix, opener in _OPENERS.items() if file.name.endswith((f".{suffix}", f".t{suffix}")))
    try:
        with opened(source) as content, open(path, "wb") as plain:
            shutil.copyfileobj(content, plain, BLOCK_BYTES)
    except (EOFError, lzma.LZMAError, gzip.BadGzipFile, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            problem = f"cannot be unpacked here ({error.strerror})"
            raise StorageError(Fault(str(path.parent), problem, "set TMPDIR to a folder with more space")) from error
        raise DataError(Fault(file.url, f"is damaged or cut short ({error})", "copy it again")) from error


def _items(pinned: Pin, origins: Mapping[str, str]) -> Iterator[Item]:
    """The samples in the order of the shards; `origins` has the archives that shards were unpacked from."""
    fetcher, y = Fetcher(pinned), 0
    for shard in pinned.corpora[0].shards:
        found, labels = pinned.index_of(shard), pinned.labels_of(shard).tolist()
        masked = [False] * len(labels) if found.masks is None else (found.masks["length"] > 0).tolist()
        where = origins.get(shard.file.url, shard.file.url)
        for name, label, has_mask in zip(found.names, labels, masked, strict=True):
            folder, slash, file = legible(name).rpartition("/")
            key = key_of(folder + slash + file.partition(".")[0])
            read, read_mask = (partial(_fetch, fetcher, y, masks=masks) for masks in (False, True))
            extension = file.rpartition(".")[2].lower()
            yield Item(key, extension, label, read, f"{where}, {name}", read_mask if has_mask else None)
            y += 1


def _fetch(fetcher: Fetcher, y: int, *, masks: bool) -> bytes:
    return bytes(fetcher.fetch([Wanted(0, y)], masks=masks)[0])


def _unchecked(pinned: Pin) -> Iterator[str]:
    shards = [shard for shard in pinned.corpora[0].shards if not pinned.index_of(shard).header.checked]
    if shards:
        samples = counted(sum(shard.samples for shard in shards), "sample")
        without = f"{counted(len(shards), 'shard')} without an index with checksums"
        yield f"read unchecked: {samples} of {without}, the first {shards[0].file.url}"


def _notes(pinned: Pin) -> Iterator[str]:
    summary: Summary = summarise(pinned.index_of(shard).header for shard in pinned.corpora[0].shards)
    yield from summary.notes
    if not summary.labelled:
        yield NO_CLASS
