"""What a corpus is packed from: folders of images, whose first level of folders are classes, or tar shards."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gmml_cluster.data import index
from gmml_cluster.data.fetch import read_range
from gmml_cluster.data.listing import list_shards
from gmml_cluster.data.shards import IMAGE_EXTENSIONS, NO_LABEL
from gmml_cluster.errors import DataError


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


@dataclass(frozen=True)
class Source:
    """The images of a folder or of shards."""

    items: tuple[Item, ...]
    classes: tuple[str, ...] = ()
    """Names of the classes, where folders named them."""


def find_source(url: str) -> Source:
    """The images at a URL, sorted by name: of a folder that holds image files, else of its tar shards.

    Raises:
        DataError: nothing is found, or a shard is damaged.
        StorageError: a store does not answer.
    """
    if "://" not in url and os.path.isdir(url):
        found = sorted(_image_files(Path(url)))
        if found:
            return _of_folder(Path(url), found)
    return Source(tuple(_distinct(_of_shards(url))))


def _image_files(folder: Path) -> Iterator[Path]:
    for parent, _, files in os.walk(folder, followlinks=True):
        for file in files:
            if file.rpartition(".")[2].lower() in IMAGE_EXTENSIONS and not file.startswith("."):
                yield Path(parent, file).relative_to(folder)


def _of_folder(folder: Path, files: list[Path]) -> Source:
    classes = tuple(sorted({file.parts[0] for file in files if len(file.parts) > 1}))
    numbers = {name: number for number, name in enumerate(classes)}
    items = (
        _item(file.as_posix(), numbers.get(file.parts[0], NO_LABEL) if len(file.parts) > 1 else NO_LABEL, read)
        for file, read in ((file, (folder / file).read_bytes) for file in files)
    )
    return Source(tuple(_distinct(items)), classes)


def _of_shards(url: str) -> Iterator[Item]:
    for shard in list_shards(url):
        found = index.find(shard, None) or index.build(shard, checked=False)
        for name, record in zip(found.names, found.records, strict=True):
            read = partial(read_range, shard.url, int(record["offset"]), int(record["length"]))
            yield _item(name, int(record["label"]), read)


def _item(name: str, label: int, read: Callable[[], bytes]) -> Item:
    key, _, extension = name.rpartition(".")
    if "\n" in name:
        raise DataError(f"{name!r}: a line break in a name; names of images have none; rename it")
    return Item(key.replace(".", "_").strip("/"), extension.lower(), label, read)


def _distinct(items: Iterator[Item]) -> Iterator[Item]:
    """Items whose keys are told apart by a number where they are equal."""
    seen: Counter[str] = Counter()
    for item in items:
        seen[item.key] += 1
        again = seen[item.key]
        yield item if again == 1 else Item(f"{item.key}~{again}", item.extension, item.label, item.read)
