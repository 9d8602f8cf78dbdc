"""Finding the images at a URL: folders of images, whose first level of folders are classes, tar shards, or parquet."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from gmml_cluster.data.corpus.account import Account, Reason, extension
from gmml_cluster.data.corpus.foreign import ARCHIVE_SUFFIXES, PARQUET_SUFFIX, explain
from gmml_cluster.data.corpus.listing import SHARD_SUFFIX, ShardFile, list_files
from gmml_cluster.data.corpus.tar import IMAGE_EXTENSIONS, NO_LABEL
from gmml_cluster.data.packing.parquet import read_parquet
from gmml_cluster.data.packing.shards import read_archives, read_shards
from gmml_cluster.data.packing.source import Item, Source, distinct, key_of, legible
from gmml_cluster.data.reader.decode import BadImage
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.store.open import scheme_of
from gmml_cluster.wording import counted

_MOST_IMAGE_BYTES = 2**32 - 1
_IMAGES_END_IN = ", ".join(f".{extension}" for extension in IMAGE_EXTENSIONS)
_PACKABLE = (SHARD_SUFFIX, *ARCHIVE_SUFFIXES, PARQUET_SUFFIX)
_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev", "heldout"))


def find_source(url: str, image: str | None = None) -> Source:
    """The images at a URL, sorted by name: of a folder that holds image files, else of its shards or parquet files.

    Args:
        url: a folder of images, or shards (also compressed) or parquet files as a job names them.
        image: field, or column, that holds the images of shards or parquet files.

    Raises:
        DataError: nothing is found, or several kinds together; a file cannot be read; a shard is damaged.
        PreflightError: a library is missing here.
        StorageError: no store has the URL's scheme, or a store does not answer.
    """
    folder = Path(url.removeprefix("file://")).expanduser()
    if scheme_of(url) == "s3" or not folder.is_dir():
        return _of_files(url, list_files(url, _PACKABLE), image)
    names = sorted(_files(folder))
    images = [name for name in names if extension(name.name) in IMAGE_EXTENSIONS]
    packable = [name for name in names if name.name.endswith(_PACKABLE)]
    if images and packable:
        what = f"holds images ({images[0]}) and shards ({packable[0]}); a source is one or the other"
        raise DataError(Fault(url, what, "name one of its folders, or move one kind away"))
    if packable:
        return _of_files(url, list_files(url, _PACKABLE), image)
    if not images:
        rule = f"images end in {_IMAGES_END_IN}, shards in {SHARD_SUFFIX}"
        what = f"neither images nor shards among {counted(len(names), 'file')}; {rule}"
        raise DataError(Fault(url, what, explain(name.as_posix() for name in names) or "check the source"))
    return _of_folder(folder, images, [name for name in names if extension(name.name) not in IMAGE_EXTENSIONS])


def with_masks(source: Source, images: str, masks: str) -> Source:
    """A folder's images with the masks of another folder: `a/b.png` there is the mask of `a/b.jpg`.

    Args:
        source: of `find_source`.
        images: its folder.
        masks: folder of the masks.

    Raises:
        DataError: `images` is no folder of image files, an image has no mask, or a file cannot be read.
    """
    folder, beside = (Path(url.removeprefix("file://")).expanduser() for url in (images, masks))
    if not folder.is_dir() or any(not Path(item.origin).is_file() for item in source.items):
        raise DataError(Fault(images, "is no folder of images; shards have their masks inside", "leave --masks out"))
    stems = {file.with_suffix(""): file for file in _files(beside) if file.suffix.lower() == ".png"}
    items, without = list[Item](), list[Path]()
    for item in source.items:
        stem = Path(item.origin).relative_to(folder).with_suffix("")
        if stem in stems:
            items.append(replace(item, read_mask=partial(_read_file, beside / stems.pop(stem))))
        else:
            without.append(stem)
    if without:
        what = (
            f"{len(without)} of {counted(len(source.items), 'image')} without a mask there, the first {without[0]}.png"
        )
        raise DataError(Fault(masks, what, "add them, or move those images away"))
    note = f"{counted(len(stems), 'mask')} of no image, the first {min(stems.values())}" if stems else ""
    return replace(source, items=tuple(items), notes=(*source.notes, *([note] if note else [])))


def demand_apart(source: str, destination: str) -> None:
    """Refuse a destination inside a source folder: packing again would pack the shards as well.

    Raises:
        DataError: it is inside.
        StorageError: no store has one of the URLs' schemes.
    """
    if scheme_of(source) != scheme_of(destination):
        return
    inner, outer = (_resolved(url) for url in (destination, source))
    if inner.startswith(f"{outer}/"):
        what = f"lies inside the source {source}, whose files would be packed again with it the next time"
        raise DataError(Fault(destination, what, "name a folder beside the source"))


def _resolved(url: str) -> str:
    if scheme_of(url) == "s3":
        return url.rstrip("/")
    return os.path.realpath(Path(url.removeprefix("file://")).expanduser()).rstrip("/")


def _of_files(url: str, files: Sequence[ShardFile], image: str | None) -> Source:
    kinds = ((SHARD_SUFFIX,), ARCHIVE_SUFFIXES, (PARQUET_SUFFIX,))
    found = [suffixes for suffixes in kinds if any(file.name.endswith(suffixes) for file in files)]
    if len(found) > 1:
        first, second = (next(f.name for f in files if f.name.endswith(suffixes)) for suffixes in found[:2])
        what = f"holds {first} and {second}; a source is of one kind"
        raise DataError(Fault(url, what, "name one kind by a pattern such as '*.tar'"))
    if found[0] == ARCHIVE_SUFFIXES:
        return read_archives(files, image)
    return read_parquet(files, image) if PARQUET_SUFFIX in found[0] else read_shards(url, image)


def _files(top: Path) -> Iterator[Path]:
    """Files at any depth, relative to the top, hidden ones and hidden folders left out; links are followed."""
    seen: dict[tuple[int, int], str] = {}
    for parent, folders, files in os.walk(top, followlinks=True, onerror=_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        status = os.stat(parent)
        first = seen.setdefault((status.st_dev, status.st_ino), parent)
        if first != parent:
            raise DataError(Fault(parent, f"is {first} once more; each folder is packed once", "remove the link"))
        yield from (Path(parent, file).relative_to(top) for file in files if not file.startswith("."))


def _unreadable(error: OSError) -> NoReturn:
    what = f"cannot be read ({error.strerror}); all of a source is packed"
    raise DataError(Fault(str(error.filename), what, "fix or remove it")) from error


def _of_folder(folder: Path, images: list[Path], others: list[Path]) -> Source:
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    numbers = {legible(name): number for number, name in enumerate(classes)}
    items = (
        _item(file, NO_LABEL if len(file.parts) == 1 else numbers[file.parts[0]], folder / file) for file in images
    )
    account = Account()
    for file in others:
        account.add(Reason.OTHER, file.as_posix())
    notes = (*_splits(classes), *map(str, account.passed_over))
    return Source(tuple(distinct(items)), classes, notes)


def _splits(classes: tuple[str, ...]) -> Iterator[str]:
    if classes and {name.lower() for name in classes} <= _SPLITS:
        names = ", ".join(repr(name) for name in classes)
        yield f"the folders {names} are taken for classes, and look like splits; pack each of them apart"


def _item(file: Path, label: int, path: Path) -> Item:
    if not os.access(path, os.R_OK):
        what = "is a broken link or may not be read; all images are packed"
        raise DataError(Fault(str(path), what, "fix or remove it"))
    stem, _, last = legible(file.as_posix()).rpartition(".")
    return Item(key_of(stem), last.lower(), label, partial(_read_file, path), str(path))


def _read_file(path: Path) -> bytes:
    try:
        if path.stat().st_size > _MOST_IMAGE_BYTES:
            raise BadImage(f"{path.stat().st_size} bytes; an image has less than 4 GiB")
        return path.read_bytes()
    except OSError as error:
        _unreadable(error)
