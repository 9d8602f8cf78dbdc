"""Parquet files with images as tars in a scratch folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from gmml_cluster.data.corpus.index import ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.parquet import LABEL_COLUMNS, ImageTable, splits_of
from gmml_cluster.data.corpus.tar import LABEL_EXTENSION, NO_LABEL
from gmml_cluster.data.packing.source import key_of, legible
from gmml_cluster.data.packing.tarball import write_tar
from gmml_cluster.data.packing.unpack import tar_in_scratch
from gmml_cluster.data.reader.reads import read_range


@dataclass(frozen=True)
class Unpacked:
    """What a parquet file says of its images."""

    rows: int
    classes: tuple[str, ...]
    """Names of the classes; empty where it has none."""
    no_labels: str
    """A note where no column holds classes; else empty."""


def unpack_parquet(file: ShardFile, image: str | None, scratch: str, name: str) -> tuple[str, ShardIndex, Unpacked]:
    """URL and index of a tar with the images of a parquet file, and what the file says of them.

    Images are packed in a shuffled order, and those of a compressed file share what must be decompressed for them, so
    each is read once.

    Args:
        file: the parquet file.
        image: column of the images; None takes the only one there is.
        scratch: where the tar goes.
        name: of the tar.

    Raises:
        PreflightError: pyarrow is not installed here.
        DataError: the file is damaged, or has no column of images.
        StorageError: a store does not answer, or there is no room.
    """
    table = ImageTable(file.url, partial(read_range, file.url), file.size, image)
    found = Unpacked(table.rows, tuple(map(legible, table.classes)), "" if table.has_classes else _no_labels(table))

    def write(path: Path) -> None:
        write_tar(path, _members(file, table))

    return *tar_in_scratch(scratch, name, "", write), found


def _no_labels(table: ImageTable) -> str:
    rule = f"none of {', '.join(LABEL_COLUMNS)} is a column of whole numbers"
    return f"no image has a class: {rule} (columns {', '.join(table.columns)})"


def _members(file: ShardFile, table: ImageTable) -> Iterator[tuple[str, bytes]]:
    """The image of each row that has one, and its class."""
    stem = key_of(file.name.rpartition(".")[0])
    for row in table:
        if row.image:
            yield f"{stem}/{row.member}", row.image
            label = table.class_of(row)
            if label not in (None, NO_LABEL):
                yield f"{stem}/{row.name}.{LABEL_EXTENSION}", b"%d" % label


def splits(names: list[str]) -> Iterator[str]:
    """A note where files' names are of several splits."""
    found = splits_of(names)
    if len(found) > 1:
        yield f"files of several splits are packed together ({', '.join(found)}); name one: '{found[-1]}-*.parquet'"
