"""What a corpus is packed from: images with keys and classes, read one by one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.corpus import index
from gmml_cluster.data.corpus.index import crc32c
from gmml_cluster.data.corpus.tar import MOST_IMAGE_BYTES
from gmml_cluster.data.reader.decode import BadImage
from gmml_cluster.data.reader.reads import read_range
from gmml_cluster.data.workers import Workers
from gmml_cluster.errors import DataError, Fault, StorageError
from gmml_cluster.store.verified import READS, read_verified


@dataclass(frozen=True)
class Item:
    """An image to be packed; picklable where its readers are."""

    key: str
    """Name in the corpus, without an extension and without dots; made unique within a shard."""
    extension: str
    label: int
    """Class, or -1."""
    read: Callable[[], bytes]
    """Its bytes."""
    origin: str = ""
    """Where it comes from, for messages: a file, or a shard and member."""
    read_mask: Callable[[], bytes] | None = None
    """Bytes of its mask, a PNG; None where it has none."""

    def __str__(self) -> str:
        return self.origin or f"{self.key}.{self.extension}"


@dataclass(frozen=True)
class ImageSource:
    """The images of a folder, of shards or of parquet files."""

    items: Sequence[Item]
    classes: tuple[str, ...] = ()
    """Names of the classes, where folders or parquet files named them."""
    notes: tuple[str, ...] = ()
    """What was understood, and what of the source is not packed or is packed unchecked: a line a kind."""
    digest: str = ""
    """Changes whenever a file of the source does; empty where it cannot be known."""
    scratch: TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Unpacked archives, which are deleted with this object."""

    def read(self, scratch: str, workers: Workers) -> "ImageSource":
        """Itself: nothing is left to be read."""
        return self

    def take(self, positions: NDArray[np.int64]) -> list[Item]:
        """The images at these positions."""
        take: Callable[[NDArray[np.int64]], list[Item]] | None = getattr(self.items, "take", None)
        return [self.items[at] for at in positions.tolist()] if take is None else take(positions)


class Listing(Protocol):
    """A source whose files are known; to know its samples may take long."""

    @property
    def digest(self) -> str:
        """As of the source."""
        ...

    def read(self, scratch: str, workers: Workers) -> ImageSource:
        """The source.

        Args:
            scratch: folder or `s3://` URL that all workers reach, for what is unpacked.
            workers: what reads the files.
        """
        ...


@dataclass(frozen=True)
class FileBytes:
    """Reads a file."""

    path: str

    def __call__(self) -> bytes:
        """Its bytes.

        Raises:
            BadImage: it is larger than an image may be.
            DataError: it cannot be read.
        """
        try:
            size = Path(self.path).stat().st_size
            if size > MOST_IMAGE_BYTES:
                raise BadImage(f"{size} bytes; an image has less than 4 GiB")
            return Path(self.path).read_bytes()
        except OSError as error:
            unreadable(error)


@dataclass(frozen=True)
class MemberBytes:
    """Reads a member of a shard, and again while its bytes are not those of its index."""

    url: str
    """Of the shard."""
    offset: int
    length: int
    crc: int | None
    where: str
    """The shard as the user knows it, and the member's name."""

    def __call__(self) -> bytes:
        """Its bytes.

        Raises:
            StorageError: they stay wrong, or the store does not answer.
        """
        return read_verified(lambda: read_range(self.url, self.offset, self.length), self._check)

    def _check(self, data: bytes) -> None:
        if len(data) != self.length or (self.crc is not None and crc32c(data) != self.crc):
            problem = (
                f"the bytes disagree with the index after {READS} tries; the store, the shard or its index is wrong"
            )
            hint = f"copy the shard again; if it was rewritten on purpose: {index.REMAKE}"
            raise StorageError(Fault(self.where, problem, hint))


def unreadable(error: OSError) -> NoReturn:
    """Refuse a source of which a file or folder cannot be read."""
    what = f"cannot be read ({error.strerror}); all of a source is packed"
    raise DataError(Fault(str(error.filename), what, "fix or remove it")) from error


def legible(name: str) -> str:
    """The name itself, if an index and `classes.txt` can hold it.

    Raises:
        DataError: it has a line break, or bytes that are no UTF-8.
    """
    if "\n" in name or any("\udc80" <= letter <= "\udcff" for letter in name):
        raise DataError(Fault(repr(name), "has a line break or bytes that are no UTF-8", "rename it"))
    return name


def key_of(name: str) -> str:
    """A key of a name without its extension: without dots, which would end it."""
    while name.startswith("./"):
        name = name.removeprefix("./")
    return name.replace(".", "_").strip("/")


def distinct(items: Iterable[Item]) -> Iterator[Item]:
    """Items whose keys are made unique by a number where they are equal."""
    taken: set[str] = set()
    seen: Counter[str] = Counter()
    for item in items:
        key = item.key
        while key in taken:
            seen[item.key] += 1
            key = f"{item.key}~{seen[item.key] + 1}"
        taken.add(key)
        yield replace(item, key=key)
