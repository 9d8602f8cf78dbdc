"""One shard of a plan: read, validated, written and published. Its bytes depend on its task alone."""

import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.listing import INDEX_SUFFIX, PACKING_PLAN, ShardFile, store_of
from gmml_cluster.data.corpus.tar import LABEL_EXTENSION, MASK_FIELD, NO_LABEL
from gmml_cluster.data.packing import resize
from gmml_cluster.data.packing.report import Remark, ShardRecord
from gmml_cluster.data.packing.source import Item, distinct
from gmml_cluster.data.packing.tarball import write_tar
from gmml_cluster.data.packing.unpack import workspace
from gmml_cluster.data.reader.decode import BadImage, decode_mask, decode_noting
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.store.protocol import NotFound, Store

HIDDEN = PACKING_PLAN.partition("/")[0]
_ANY_VALUE = np.arange(256, dtype=np.int16)
_READS, _AHEAD = 8, 64


@dataclass(frozen=True)
class Rules:
    """What is done to each image."""

    max_pixels: int
    """An image with more is left out."""
    refuse_damaged: bool
    """Whether an image that decodes although its JPEG data is damaged is left out."""
    short_side: int | None
    """An image whose shorter side is longer is shrunk to this; None packs all as they are."""


@dataclass(frozen=True)
class ShardTask:
    """A shard to be made; picklable."""

    number: int
    name: str
    items: list[Item]
    destination: str
    plan: str
    """Digest of the plan that it is of."""
    rules: Rules


@dataclass(frozen=True)
class _Sample:
    """An image that decodes, as it is packed."""

    item: Item
    data: bytes
    extension: str
    mask: bytes
    """Empty where there is none."""
    mask_values: NDArray[np.int64]
    """Pixels of the mask by value (256,)."""
    moments: NDArray[np.float64]
    """Its means and mean squares by channel (2, 3)."""
    damage: str

    @property
    def member(self) -> str:
        return f"{self.item.key}.{self.extension}"


def record_name(number: int) -> str:
    """Where the record of a shard lies below the destination while a corpus is packed."""
    return f"{HIDDEN}/done/{number:06d}.json"


def pack_shard(task: ShardTask) -> ShardRecord:
    """Make a shard, its index and its record, each published in one step; what a killed worker left is overwritten.

    Raises:
        DataError: the source is damaged, or the destination is not the plan's as seen from here.
        StorageError: a store does not answer, or there is no room.
    """
    cv2.setNumThreads(1)  # a worker is one core
    store = store_of(task.destination)
    _demand_plan(store, task)
    record = ShardRecord(task.number)
    with workspace(f"{task.destination}/{HIDDEN}") as folder:
        path = Path(folder, task.name)
        written = list[tuple[str, int, int]]()
        write_tar(path, _members(_noted(distinct(task.items), task.rules, record), written))
        made = index.build(ShardFile(str(path), path.stat().st_size, ""), checked=True)
        lengths, labels = (made.records[name].tolist() for name in ("length", "label"))
        if list(zip(made.names, lengths, labels, strict=True)) != written:
            what = f"its index has other samples than the {len(written)} that were written ({made.header.samples})"
            raise DataError(Fault(task.name, what, "rename images whose names differ only behind a dot"))
        store.put_file(task.name, path)
    final = store.stat(task.name)
    store.put(f"{task.name}{INDEX_SUFFIX}", index.with_version(made, final.version).to_bytes())
    record.size, record.version = final.size, final.version
    store.put(record_name(task.number), json.dumps(record.to_json()).encode())
    return record


def _demand_plan(store: Store, task: ShardTask) -> None:
    """The plan lies at the destination: not so where a worker sees another disk, or the command was given up."""
    found = None
    with suppress(NotFound):
        found = json.loads(store.get(PACKING_PLAN))["digest"]
    if found != task.plan:
        what = f"is not where this corpus is packed, as seen by process {os.getpid()} on {os.uname().nodename}"
        raise DataError(Fault(task.destination, what, "name a folder that all workers share, or an s3:// URL"))


def _members(samples: Iterable[_Sample], written: list[tuple[str, int, int]]) -> Iterator[tuple[str, bytes]]:
    for sample in samples:
        yield sample.member, sample.data
        written.append((sample.member, len(sample.data), sample.item.label))
        if sample.mask:
            yield f"{sample.item.key}.{MASK_FIELD}", sample.mask
        if sample.item.label != NO_LABEL:
            yield f"{sample.item.key}.{LABEL_EXTENSION}", str(sample.item.label).encode()


def _noted(items: Iterable[Item], rules: Rules, record: ShardRecord) -> Iterator[_Sample]:
    """The samples that are packed, counted in the record as well as those that are left out."""
    for item, read in _read_ahead(items):
        try:
            sample = _prepare(item, read, rules)
        except BadImage as error:
            record.left_out.append(Remark(str(error), str(item)))
            continue
        if sample.damage:
            record.damaged.append(Remark(sample.damage, str(item)))
        record.samples += 1
        record.labels[item.label] += 1
        record.sums += sample.moments
        record.masks += bool(sample.mask)
        record.mask_values += sample.mask_values
        yield sample


_Read = Future[tuple[bytes, bytes | None]]


def _read_ahead(items: Iterable[Item]) -> Iterator[tuple[Item, _Read]]:
    """Items with their bytes, read by a few threads: an object store answers in 50 ms, in which five are decoded."""
    left = iter(items)
    with ThreadPoolExecutor(_READS) as pool:
        waiting = deque((item, pool.submit(_read, item)) for item in islice(left, _AHEAD))
        try:
            while waiting:
                yield waiting.popleft()
                waiting.extend((item, pool.submit(_read, item)) for item in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)


def _read(item: Item) -> tuple[bytes, bytes | None]:
    return item.read(), None if item.read_mask is None else item.read_mask()


def _prepare(item: Item, read: _Read, rules: Rules) -> _Sample:
    data, mask = read.result()
    values, extension = np.zeros(256, np.int64), item.extension
    pixels, damage = decode_noting(data, rules.max_pixels)
    if damage and rules.refuse_damaged:
        raise BadImage(damage)
    classes = None if mask is None else decode_mask(mask, pixels.shape, _ANY_VALUE)
    if rules.short_side is not None and not resize.fits(pixels, rules.short_side):
        pixels = resize.shrink(pixels, rules.short_side)
        data, extension = resize.encode(pixels, extension)
        if classes is not None:
            classes = resize.shrink_mask(classes, rules.short_side)
            mask = resize.encode_png(classes)
    if classes is not None:
        values = np.bincount(classes.ravel(), minlength=256)
    return _Sample(item, data, extension, mask or b"", values, _moments(pixels), damage)


def _moments(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    levels = np.arange(256) / 255
    shares: Sequence[NDArray[np.float64]] = [
        np.bincount(pixels[..., channel].ravel(), minlength=256) / pixels[..., 0].size for channel in range(3)
    ]
    return np.array([[share @ levels for share in shares], [share @ levels**2 for share in shares]])
