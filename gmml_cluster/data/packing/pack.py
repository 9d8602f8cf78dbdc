"""`gmml corpus pack SRC DST`: images shuffled into tar shards with indexes. Equal sources and options give equal bytes.

Nothing is left at DST when packing fails.
"""

import io
import math
import os
import tarfile
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.listing import INDEX_SUFFIX, SHARD_SUFFIX, ShardFile
from gmml_cluster.data.corpus.tar import LABEL_EXTENSION, MASK_FIELD, NO_LABEL
from gmml_cluster.data.packing.source import Item, Source
from gmml_cluster.data.random.feistel import permutation_key, permute
from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.reader.decode import BadImage, decode_mask, decode_noting
from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.spec.job import Data
from gmml_cluster.store.open import open_store, scheme_of
from gmml_cluster.wording import counted

CLASSES = "classes.txt"
MAX_PIXELS: int = Data.model_fields["max_pixels"].default
_READ_AT_ONCE = 128
_ANY_VALUE = np.arange(256, dtype=np.int16)


@dataclass(frozen=True)
class _Target:
    """Where a corpus is written."""

    work: Path
    """Folder in which each file is written first."""
    put: Callable[[str], ShardFile]
    """Publishes a file that was written there, and returns it as its store lists it."""


@dataclass(frozen=True, order=True)
class Remark:
    """What is to be said of an image; sorts by reason, then by name."""

    reason: str
    image: str
    """Its name in the source."""

    def __str__(self) -> str:
        return f"{self.image}: {self.reason}"


@dataclass
class Packed:
    """What was packed."""

    shards: list[str] = field(default_factory=list)
    """Names of the shards."""
    samples: int = 0
    left_out: list[Remark] = field(default_factory=list)
    """Images that cannot be decoded, by reason."""
    damaged: list[Remark] = field(default_factory=list)
    """Images that were packed and whose JPEG data is damaged, by kind of damage."""
    labels: Counter[int] = field(default_factory=Counter)
    """Samples of each class; -1 counts those without one."""
    masks: int = 0
    """Samples with a mask."""
    mask_values: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    """Pixels of each value of the masks."""
    sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, 3)))
    """Sums over the images of their mean and mean square by channel, RGB in [0, 1]."""

    @property
    def braces(self) -> str:
        """The shards' names as one pattern."""
        first, last = self.shards[0], self.shards[-1]
        number = slice(-len("000000") - len(SHARD_SUFFIX), -len(SHARD_SUFFIX))
        return first if first == last else f"{first[: number.start]}{{{first[number]}..{last[number]}}}{SHARD_SUFFIX}"

    @property
    def mean(self) -> tuple[float, ...]:
        """Mean by channel; every image counts alike."""
        return tuple(float(mean) for mean in self.sums[0] / max(self.samples, 1))

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviation by channel; every image counts alike."""
        squares = self.sums[1] / max(self.samples, 1)
        return tuple(math.sqrt(max(square - mean**2, 0.0)) for square, mean in zip(squares, self.mean, strict=True))


def pack(
    source: Source,
    destination: str,
    *,
    shard_samples: int = 1000,
    seed: int = 0,
    prefix: str = "shard",
    max_pixels: int = MAX_PIXELS,
    refuse_damaged: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> Packed:
    """Shuffle images into shards at DST, with their indexes, and `classes.txt` where classes have names.

    Images go in as they are, byte for byte; one that cannot be decoded is left out and named in the result.

    Args:
        source: the images; their order is part of what decides the bytes.
        destination: a folder that does not exist or is empty, or an `s3://` URL below which there is nothing.
        shard_samples: samples a shard; the last has what is left.
        seed: of the shuffle.
        prefix: first part of the shards' names.
        max_pixels: an image with more is left out.
        refuse_damaged: whether an image that decodes although its JPEG data is damaged is left out.
        advance: called with how many more samples are done.

    Raises:
        DataError: there is no image, or DST is not empty.
        StorageError: the store fails.
    """
    packed = Packed()
    measure = partial(_measure, max_pixels=max_pixels, refuse_damaged=refuse_damaged)
    with _destination(destination) as target:
        good = _decodable(_shuffled(source.items, seed), measure, packed, advance)
        while samples := list(islice(good, shard_samples)):
            name = f"{prefix}-{len(packed.shards):06d}{SHARD_SUFFIX}"
            _put_shard(target, name, samples)
            packed.shards.append(name)
        # samples were met in the order of the shuffle, which puts a thousand reasons in a row of chance
        packed.left_out.sort()
        packed.damaged.sort()
        if not packed.samples:
            first = f" (the first: {packed.left_out[0]})" if packed.left_out else ""
            what = f"{counted(len(source.items), 'image')}, none of which can be decoded{first}"
            rule = "images are .jpg, .jpeg, .png or .webp"
            raise DataError(Fault(destination, f"{what}; {rule}", "check the source"))
        if source.classes:
            (target.work / CLASSES).write_text("".join(f"{name}\n" for name in source.classes), encoding="utf-8")
            target.put(CLASSES)
    return packed


def _shuffled(items: Sequence[Item], seed: int) -> Iterator[Item]:
    zero = np.zeros(1, np.int64)
    key = permutation_key(seed, Purpose.PACK, (zero, zero, zero, zero))
    for number in permute(key, np.full(len(items), len(items)), np.arange(len(items))):
        yield items[number]


@dataclass(frozen=True)
class _Measured:
    """An image that decodes, with its mask."""

    data: bytes
    mask: bytes
    """Empty where there is none."""
    mask_values: NDArray[np.int64]
    """Pixels of the mask by value (256,)."""
    moments: NDArray[np.float64]
    """Its means and mean squares by channel (2, 3)."""
    damage: str


_Packable = tuple[Item, bytes, bytes]
"""An item, its bytes, and its mask's, empty where it has none."""


def _decodable(
    items: Iterator[Item],
    measure: Callable[[Item], _Measured | str],
    packed: Packed,
    advance: Callable[[int], None],
) -> Iterator[_Packable]:
    """The items that decode, with their bytes and their masks', counted in `packed`."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while chunk := list(islice(items, _READ_AT_ONCE)):
            for item, found in zip(chunk, pool.map(measure, chunk), strict=True):
                if isinstance(found, str):
                    packed.left_out.append(Remark(found, str(item)))
                    continue
                if found.damage:
                    packed.damaged.append(Remark(found.damage, str(item)))
                packed.samples += 1
                packed.labels[item.label] += 1
                packed.sums += found.moments
                packed.masks += bool(found.mask)
                packed.mask_values += found.mask_values
                yield item, found.data, found.mask
            advance(len(chunk))


def _measure(item: Item, *, max_pixels: int, refuse_damaged: bool) -> _Measured | str:
    """The image and its mask, or why they are left out."""
    mask, values = b"", np.zeros(256, np.int64)
    try:
        data = item.read()
        pixels, damage = decode_noting(data, max_pixels)
        if item.read_mask is not None:
            mask = item.read_mask()
            values = np.bincount(decode_mask(mask, pixels.shape, _ANY_VALUE).ravel(), minlength=256)
    except BadImage as error:
        return str(error)
    if damage and refuse_damaged:
        return damage
    levels = np.arange(256) / 255
    shares = [np.bincount(pixels[..., channel].ravel(), minlength=256) / pixels[..., 0].size for channel in range(3)]
    moments = np.array([[share @ levels for share in shares], [share @ levels**2 for share in shares]])
    return _Measured(data, mask, values, moments, damage)


def _write_tar(path: Path, samples: Sequence[_Packable]) -> None:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for item, data, mask in samples:
            _add(tar, f"{item.key}.{item.extension}", data)
            if mask:
                _add(tar, f"{item.key}.{MASK_FIELD}", mask)
            if item.label != NO_LABEL:
                _add(tar, f"{item.key}.{LABEL_EXTENSION}", str(item.label).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    tar.addfile(info, io.BytesIO(data))


def _put_shard(target: _Target, name: str, samples: Sequence[_Packable]) -> None:
    """Put a shard and its index, which has the version that the shard got at its destination."""
    path = target.work / name
    _write_tar(path, samples)
    made = index.build(ShardFile(str(path), path.stat().st_size, ""), checked=True)
    written = [(f"{item.key}.{item.extension}", len(data), item.label) for item, data, _ in samples]
    if list(zip(made.names, *(made.records[field].tolist() for field in ("length", "label")), strict=True)) != written:
        what = f"its index has other samples than the {len(samples)} that were written ({made.header.samples})"
        raise DataError(Fault(name, what, "rename images whose names differ only behind a dot"))
    final = target.put(name)
    (target.work / f"{name}{INDEX_SUFFIX}").write_bytes(index.with_version(made, final.version).to_bytes())
    target.put(f"{name}{INDEX_SUFFIX}")


@contextmanager
def _destination(url: str) -> Iterator[_Target]:
    """Where a corpus is written; all of it is undone when the block fails."""
    in_store = scheme_of(url) == "s3"
    try:
        if in_store:
            yield from _store_destination(url)
        else:
            yield from _folder_destination(Path(os.path.realpath(Path(url.removeprefix("file://")).expanduser())))
    except OSError as error:
        where = error.filename or (tempfile.gettempdir() if in_store else url)
        problem = f"{error.strerror or error}; nothing of the corpus is kept"
        raise StorageError(Fault(str(where), problem, "fix it or name another destination")) from error


def _folder_destination(folder: Path) -> Iterator[_Target]:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        what = "exists and is not empty; a corpus gets a folder of its own"
        raise DataError(Fault(str(folder), what, "name another or remove it"))
    if folder.is_mount():  # the finished corpus is renamed to its name, which replaces no mount point
        what = "is where a disk is mounted; a corpus appears complete, by a rename"
        raise DataError(Fault(str(folder), what, "name a folder below"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.packing-", dir=folder.parent) as work:
        whole = Path(work, "corpus")
        whole.mkdir()

        def put(name: str) -> ShardFile:
            found = (whole / name).stat()
            return ShardFile(str(folder / name), found.st_size, str(found.st_mtime_ns))

        yield _Target(whole, put)
        os.replace(whole, folder)


def _store_destination(url: str) -> Iterator[_Target]:
    store = open_store(url)
    if store.list_objects():
        what = "is not empty; a corpus gets a prefix of its own"
        raise DataError(Fault(url, what, "name another or remove what is there"))
    names: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gmml-pack-") as work:

        def put(name: str) -> ShardFile:
            names.append(name)
            store.put_file(name, Path(work, name))
            Path(work, name).unlink()
            found = store.stat(name)
            return ShardFile(f"{store.url}/{name}", found.size, found.version)

        try:
            yield _Target(Path(work), put)
        except BaseException:
            store.delete(names)
            raise
