"""Images of folders, whose first level of folders are classes, and the masks of another folder."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gmml_cluster.data.corpus.account import Account, Reason, extension
from gmml_cluster.data.corpus.tar import IMAGE_EXTENSIONS, NO_LABEL
from gmml_cluster.data.packing.catalog import ROW, Catalog, Row
from gmml_cluster.data.packing.source import FileBytes, ImageSource, Item, key_of, legible, unreadable
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.wording import counted

_SPLITS = frozenset(("train", "training", "val", "valid", "validation", "test", "testing", "dev", "heldout"))
_ADDED_AT_ONCE = 2**14


@dataclass(frozen=True)
class _Folder:
    """Makes items of its files' names; that of a mask stands behind a line break, which no name has."""

    top: str
    masks: str

    def __call__(self, row: Row, name: str) -> Item:
        file, _, mask = name.partition("\n")
        stem, _, last = file.rpartition(".")
        read_mask = FileBytes(f"{self.masks}/{mask}") if mask else None
        path = f"{self.top}/{file}"
        return Item(key_of(stem), last.lower(), row[1], FileBytes(path), path, read_mask)


def walk(top: Path) -> Iterator[str]:
    """Files at any depth, relative to the top, in the order of names within each folder, without hidden ones.

    Links are followed.

    Raises:
        DataError: a folder cannot be read, or is reached twice.
    """
    seen: dict[tuple[int, int], str] = {}
    for parent, folders, files in os.walk(top, followlinks=True, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        status = os.stat(parent)
        first = seen.setdefault((status.st_dev, status.st_ino), parent)
        if first != parent:
            raise DataError(Fault(parent, f"is {first} once more; each folder is packed once", "remove the link"))
        below = os.path.relpath(parent, top)
        prefix = "" if below == "." else f"{below}/"
        yield from (prefix + file for file in sorted(files) if not file.startswith("."))


def is_image(name: str) -> bool:
    """Whether a file of a folder is taken for an image."""
    return extension(name) in IMAGE_EXTENSIONS


def read_folder(folder: Path, masks: Path | None, foreign: tuple[str, ...] = ()) -> ImageSource:
    """The images of a folder; with `masks`, `a/b.png` there is the mask of `a/b.jpg`.

    Args:
        folder: its first level of folders are classes.
        masks: folder of the masks; None where there are none.
        foreign: endings of files that may not lie among images.

    Raises:
        DataError: a file or folder cannot be read, an image has no mask, or there is a foreign file.
    """
    classes = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    numbers = {legible(name): number for number, name in enumerate(classes)}
    stems = {} if masks is None else {_stem(name): name for name in walk(masks) if name.lower().endswith(".png")}
    catalog, account, digest = Catalog(_Folder(str(folder), str(masks))), Account(), hashlib.sha256()
    without = list[str]()
    names, labels = list[str](), list[int]()
    for name in walk(folder):
        if name.endswith(foreign):
            first_image = next(filter(is_image, walk(folder)))
            what = f"holds images ({first_image}) and shards ({name}); a source is one or the other"
            raise DataError(Fault(str(folder), what, "name one of its folders, or move one kind away"))
        if not is_image(name):
            account.add(Reason.OTHER, name)
            continue
        mask = stems.pop(_stem(name), "") if masks is not None else ""
        if masks is not None and not mask:
            without.append(name)
        digest.update(f"{legible(name)}\n{_state(folder / name)}\n".encode())
        digest.update(f"{mask}\n{_state(masks / mask)}\n".encode() if masks is not None and mask else b"\n")
        first, slash, _ = name.partition("/")
        names.append(f"{name}\n{mask}" if mask else name)
        labels.append(numbers[first] if slash else NO_LABEL)
        if len(names) == _ADDED_AT_ONCE:
            _add(catalog, names, labels)
    _add(catalog, names, labels)
    if without:
        first = f"{_stem(without[0])}.png"
        what = f"{len(without)} of {counted(len(catalog), 'image')} without a mask there, the first {first}"
        raise DataError(Fault(str(masks), what, "add them, or move those images away"))
    spare = (f"{counted(len(stems), 'mask')} of no image, the first {min(stems.values())}",) if stems else ()
    notes = (*_splits(classes), *map(str, account.passed_over), *spare)
    digest.update(repr(classes).encode())
    return ImageSource(catalog, classes, notes, digest.hexdigest())


def _add(catalog: Catalog, names: list[str], labels: list[int]) -> None:
    rows = np.zeros(len(names), ROW)
    rows["label"] = labels
    catalog.add(rows, names)
    names.clear()
    labels.clear()


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _state(path: Path) -> str:
    try:
        found = path.stat()
        if os.access(path, os.R_OK):
            return f"{found.st_size} {found.st_mtime_ns}"
    except FileNotFoundError:
        pass
    except OSError as error:
        unreadable(error)
    raise DataError(Fault(str(path), "is a broken link or may not be read; all images are packed", "fix or remove it"))


def _splits(classes: tuple[str, ...]) -> Iterator[str]:
    if classes and {name.lower() for name in classes} <= _SPLITS:
        names = ", ".join(repr(name) for name in classes)
        yield f"the folders {names} are taken for classes, and look like splits; pack each of them apart"
