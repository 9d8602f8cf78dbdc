"""What the indexes of a folder's shards say of each shard as a whole, in one object (decision 0029).

To pin 10^5 shards then costs one read instead of 10^5. It lies beside the shards, or in a root's store of indexes. It
holds rows of indexes with CRCs alone, and a row counts for a shard of just its size and version: another index of that
shard could not say otherwise. So it may lag behind the indexes, and be gone; shards without a row are looked up one by
one.
"""

import hashlib
import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from itertools import repeat
from typing import Any

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.account import PassedOver, Reason
from gmml_cluster.data.corpus.columns import Column, pack, unpack
from gmml_cluster.data.corpus.index import Header
from gmml_cluster.data.corpus.listing import INDEX_SUFFIX, ShardFile, index_name, split_url, store_of
from gmml_cluster.errors import DataError
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.store.verified import read_verified

VERSION = 1
NAME = ".shards.index"
"""In the shards' folder; `.shards.left.jpg.index` where the corpus names that field of images."""
LEAST = 64
"""Shards of a folder from which on it is worth a request."""
_FIELDS = tuple(field.name for field in fields(Header))

_log = logging.getLogger(__name__)

Rows = dict[str, Header]
"""By the shard's name in its folder."""


def find_headers(shards: Sequence[ShardFile], indexes: Store | None) -> list[Header | None]:
    """The headers of the shards' indexes; None of each shard that has no index which fits.

    Raises:
        DataError: an index stays damaged although it was read several times.
        StorageError: a store does not answer.
    """
    return completed(known_headers(shards, indexes), shards, indexes)


def known_headers(shards: Sequence[ShardFile], indexes: Store | None) -> list[Header | None]:
    """The headers that are known without a look at an index; two requests a folder at most.

    Raises:
        StorageError: a store does not answer.
    """
    found: list[Header | None] = [None] * len(shards)
    for (folder, image), numbers in _by_folder(shards).items():
        waiting = numbers
        for store, name in _locations(folder, image, indexes):
            rows = _read(store, name) if waiting else {}
            for number in waiting:
                found[number] = _exact(rows.get(shards[number].name), shards[number])
            waiting = [number for number in waiting if found[number] is None]
    return found


def completed(
    known: Sequence[Header | None], shards: Sequence[ShardFile], indexes: Store | None
) -> list[Header | None]:
    """The same, with the headers of the others' own indexes.

    Raises:
        DataError: an index stays damaged although it was read several times.
        StorageError: a store does not answer.
    """
    unknown = [shard for shard, header in zip(shards, known, strict=True) if header is None]
    looked_up = iter(index.find_headers(unknown, indexes))
    return [next(looked_up) if header is None else header for header in known]


def put(shards: Sequence[ShardFile], headers: Sequence[Header | None], indexes: Store | None) -> None:
    """Keep rows of shards, in a store of indexes, or beside the shards where that is None.

    Rows of other shards of the folder stay; of two that write at once, one's rows may be lost, which costs time alone.

    Raises:
        StorageError: they cannot be written there.
    """
    for (folder, image), numbers in _by_folder(shards).items():
        store, name = _locations(folder, image, indexes)[-1]
        fresh = {shards[n].name: row for n in numbers if (row := _exact(headers[n], shards[n])) is not None}
        if fresh:
            store.put(name, _to_bytes({**_read(store, name), **fresh}, image))


def _by_folder(shards: Sequence[ShardFile]) -> Mapping[tuple[str, str], list[int]]:
    """Numbers of the shards of each folder and field of images, where there are enough."""
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for number, shard in enumerate(shards):
        found[split_url(shard.url)[0], shard.image].append(number)
    return {key: numbers for key, numbers in found.items() if len(numbers) >= LEAST}


def _locations(folder: str, image: str, indexes: Store | None) -> list[tuple[Store, str]]:
    beside = (store_of(folder), index_name(NAME.removesuffix(INDEX_SUFFIX), image))
    if indexes is None:
        return [beside]
    return [beside, (indexes, f"{hashlib.sha256(json.dumps([folder, image]).encode()).hexdigest()[:32]}.shards")]


def _exact(header: Header | None, shard: ShardFile) -> Header | None:
    """The header where it has CRCs and is of just this version of the shard."""
    if header is None or not header.checked or header.size != shard.size:
        return None
    return header if (header.version, header.image) == (shard.version, shard.image) else None


def _read(store: Store, name: str) -> Rows:
    """The rows that lie there; none where there is no such object, or a damaged one, or one of another version."""
    where = f"{store.url}/{name}"

    def check(data: bytes) -> None:
        unpack(where, data)

    try:
        about, columns = unpack(where, read_verified(lambda: store.get(name), check))
        return _rows(about["image"], columns) if about["version"] == VERSION else {}
    except NotFound:
        return {}
    except DataError as error:
        _log.warning("%s; the shards are looked up one by one", error)
        return {}


def _to_bytes(rows: Rows, image: str) -> bytes:
    names = sorted(rows)
    columns = {"name": Column.of_texts(names)}
    for field in _FIELDS:
        values = [getattr(rows[name], field) for name in names]
        if field == "passed_over":
            columns[field] = Column.of_texts([_written(value) for value in values])
        elif field != "image":  # which all of them share
            columns[field] = Column.of_texts(values) if isinstance(values[0], str) else Column.of_numbers(values)
    return pack({"version": VERSION, "image": image}, columns)


def _rows(image: str, columns: Mapping[str, Column]) -> Rows:
    values = (_values(field, image, columns) for field in _FIELDS)
    return dict(zip(columns["name"].texts(), map(Header, *values), strict=True))


def _values(field: str, image: str, columns: Mapping[str, Column]) -> Iterable[Any]:
    if field == "image":
        return repeat(image)
    if field == "passed_over":
        return map(_read_passed, columns[field].texts())
    if field not in columns:  # the object is of a version that knew no such field
        return repeat(0)
    column = columns[field]
    return column.numbers.tolist() if column.kind == "number" else column.texts()


def _written(passed_over: Sequence[PassedOver]) -> str:
    return json.dumps([asdict(passed) for passed in passed_over]) if passed_over else ""


def _read_passed(text: str) -> tuple[PassedOver, ...]:
    if not text:
        return ()
    return tuple(PassedOver(**{**row, "reason": Reason(row["reason"])}) for row in json.loads(text))
