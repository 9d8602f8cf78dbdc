"""What a corpus is packed from: images with keys and classes, read one by one."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from tempfile import TemporaryDirectory

from gmml_cluster.errors import DataError, Fault


@dataclass(frozen=True)
class Item:
    """An image to be packed."""

    key: str
    """Name in the corpus, without an extension and without dots; unique."""
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
class Source:
    """The images of a folder, of shards or of parquet files."""

    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    """Names of the classes, where folders or parquet files named them."""
    notes: tuple[str, ...] = ()
    """What was understood, and what of the source is not packed or is packed unchecked: a line a kind."""
    scratch: TemporaryDirectory[str] | None = field(default=None, repr=False)
    """Unpacked archives, which are deleted with this object."""


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
