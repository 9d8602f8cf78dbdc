"""What a corpus is packed from: folders of images, whose first level of folders are classes, or tar shards."""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import NoReturn

from gmml_cluster.data.corpus.listing import SHARD_SUFFIX
from gmml_cluster.data.corpus.pin import Pin, PinnedShard, pin
from gmml_cluster.data.corpus.tar import IMAGE_EXTENSIONS, LABEL_EXTENSION, NO_LABEL, read_names
from gmml_cluster.data.reader.fetch import Fetcher, Wanted, read_range
from gmml_cluster.errors import DataError
from gmml_cluster.spec.job import CorpusSpec

_LISTED_AT_ONCE = 8
_IMAGES_END_IN = ", ".join(f".{extension}" for extension in IMAGE_EXTENSIONS)


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
    notes: tuple[str, ...] = ()
    """What of the source is not packed, or is packed unchecked: a line a kind."""


def find_source(url: str) -> Source:
    """The images at a URL, sorted by name: of a folder that holds image files, else of its tar shards.

    Raises:
        DataError: nothing is found, or images and shards together; a file cannot be read; a shard is damaged.
        StorageError: a store does not answer.
    """
    folder = Path(url.removeprefix("file://"))
    if url.startswith("s3://") or not folder.is_dir():
        return _of_shards(url)
    files = sorted(_files(folder))
    images = [file for file in files if _extension(file.name) in IMAGE_EXTENSIONS]
    shards = [file for file in files if file.name.endswith(SHARD_SUFFIX)]
    if images and shards:
        what = f"holds images ({images[0]}) and shards ({shards[0]})"
        raise DataError(f"{url}: {what}; a source is one or the other; name one of its folders, or move one kind away")
    if shards:
        return _of_shards(url)
    if not images:
        what = f"neither images nor shards among {len(files)} files"
        raise DataError(f"{url}: {what}; images end in {_IMAGES_END_IN}, shards in {SHARD_SUFFIX}; check the source")
    return _of_folder(folder, images, [file for file in files if _extension(file.name) not in IMAGE_EXTENSIONS])


def _files(top: Path) -> Iterator[Path]:
    """Files at any depth, relative to the top, hidden ones and hidden folders left out; links are followed."""
    seen: dict[tuple[int, int], str] = {}
    for parent, folders, files in os.walk(top, followlinks=True, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        status = os.stat(parent)
        first = seen.setdefault((status.st_dev, status.st_ino), parent)
        if first != parent:
            raise DataError(f"{parent}: is {first} once more; each folder is packed once; remove the link")
        yield from (Path(parent, file).relative_to(top) for file in files if not file.startswith("."))


def _unreadable(error: OSError) -> NoReturn:
    what = f"cannot be read ({error.strerror})"
    raise DataError(f"{error.filename}: {what}; all of a source is packed; mend or remove it") from error


def _of_folder(folder: Path, images: list[Path], others: list[Path]) -> Source:
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    numbers = {_legible(name): number for number, name in enumerate(classes)}
    items = (
        _item(file.as_posix(), NO_LABEL if len(file.parts) == 1 else numbers[file.parts[0]], _reader(folder / file))
        for file in images
    )
    notes = _passed_over((file.as_posix() for file in others), f"images end in {_IMAGES_END_IN}")
    return Source(tuple(_distinct(items)), classes, notes)


def _reader(path: Path) -> Callable[[], bytes]:
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: is a broken link or may not be read; all images are packed; mend or remove it")
    return partial(_read_file, path)


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        _unreadable(error)


def _of_shards(url: str) -> Source:
    """The samples of shards, each checked against the CRC that its shard's index has."""
    pinned = pin([CorpusSpec(url=url)], checked=False)
    fetcher, shards = Fetcher(pinned), pinned.corpora[0].shards
    places = ((found, place) for found in map(pinned.index_of, shards) for place in range(len(found.records)))
    items = (
        _item(found.names[place], int(found.records[place]["label"]), partial(_fetch, fetcher, y))
        for y, (found, place) in enumerate(places)
    )
    return Source(tuple(_distinct(items)), notes=(*_unchecked(pinned), *_members_passed_over(pinned)))


def _fetch(fetcher: Fetcher, y: int) -> bytes:
    return fetcher.fetch([Wanted(0, y)])[0]


def _unchecked(pinned: Pin) -> Iterator[str]:
    shards = [shard for shard in pinned.corpora[0].shards if not pinned.index_of(shard).header.checked]
    if shards:
        what = f"{sum(shard.samples for shard in shards)} samples are read unchecked"
        yield f"{what}: {len(shards)} shards have no index with checksums, the first {shards[0].file.url}"


def _members_passed_over(pinned: Pin) -> tuple[str, ...]:
    with ThreadPoolExecutor(_LISTED_AT_ONCE) as pool:
        names = chain.from_iterable(pool.map(partial(_other_members, pinned), pinned.corpora[0].shards))
        return _passed_over(names, "a key ends at the first dot of its name, and the first image of a key is packed")


def _other_members(pinned: Pin, shard: PinnedShard) -> list[str]:
    """Members that are neither the image of a sample nor a class."""
    packed, url = set(pinned.index_of(shard).names), shard.file.url
    names = read_names(url, partial(read_range, url), shard.file.size)
    return [name for name in names if name not in packed and _extension(name) != LABEL_EXTENSION]


def _passed_over(names: Iterable[str], rule: str) -> tuple[str, ...]:
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for name in names:
        counts[_extension(name)] += 1
        first.setdefault(_extension(name), name)
    return tuple(
        f"passed over {n} {_kind(kind)}, the first {first[kind]!r}; {rule}" for kind, n in counts.most_common()
    )


def _kind(extension: str) -> str:
    return f".{extension}" if extension else "without an extension"


def _extension(name: str) -> str:
    return PurePosixPath(name).suffix.removeprefix(".").lower()


def _item(name: str, label: int, read: Callable[[], bytes]) -> Item:
    key, _, extension = _legible(name).rpartition(".")
    while key.startswith("./"):
        key = key.removeprefix("./")
    return Item(key.replace(".", "_").strip("/"), extension.lower(), label, read)


def _legible(name: str) -> str:
    """The name itself, if an index and `classes.txt` can hold it."""
    if "\n" in name or any("\udc80" <= letter <= "\udcff" for letter in name):
        raise DataError(f"{name!r}: a line break, or bytes that are no UTF-8; names in a corpus have none; rename it")
    return name


def _distinct(items: Iterable[Item]) -> Iterator[Item]:
    """Items whose keys are told apart by a number where they are equal."""
    taken: set[str] = set()
    seen: Counter[str] = Counter()
    for item in items:
        key = item.key
        while key in taken:
            seen[item.key] += 1
            key = f"{item.key}~{seen[item.key] + 1}"
        taken.add(key)
        yield replace(item, key=key)
