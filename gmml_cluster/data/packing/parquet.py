"""Images of parquet files as HuggingFace publishes them: a column of structs {bytes, path} and one of labels."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from gmml_cluster.data.corpus.index import ShardIndex
from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.tar import BLOCK_BYTES, IMAGE_EXTENSIONS, LABEL_EXTENSION, RangeFile
from gmml_cluster.data.packing.source import key_of, legible
from gmml_cluster.data.packing.tarball import write_tar
from gmml_cluster.data.packing.unpack import tar_in_scratch
from gmml_cluster.data.reader.reads import read_range
from gmml_cluster.errors import DataError, Fault, PreflightError

_LABEL_COLUMNS = ("label", "labels", "fine_label")
_URL_COLUMNS = ("url", "URL", "image_url")
_BYTES_COLUMNS = ("image", "img", *IMAGE_EXTENSIONS)
_MAGICS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
_ROWS_AT_ONCE = 64


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

    Images are packed in a shuffled order, and parquet gives a row only with its whole row group, so each is read once.

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
    table = _open(file)
    columns = _columns(file.url, table.schema_arrow, image)
    names = table.schema_arrow.names
    found = Unpacked(
        table.metadata.num_rows,
        _class_names(table.schema_arrow, columns[1]),
        "" if columns[1] else _no_labels(names),
    )

    def write(path: Path) -> None:
        write_tar(path, _members(file, table, columns))

    return *tar_in_scratch(scratch, name, "", write), found


def _open(file: ShardFile) -> Any:
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError as error:
        problem = "not installed here, and parquet files need it"
        raise PreflightError(Fault("pyarrow", problem, "pip install 'gmml-cluster[parquet]'")) from error
    try:
        return parquet.ParquetFile(RangeFile(partial(read_range, file.url), file.size, BLOCK_BYTES))
    except arrow.ArrowException as error:
        raise DataError(Fault(file.url, f"is not a valid parquet file ({error})", "copy it again")) from error


def _columns(url: str, schema: Any, image: str | None) -> tuple[str, str | None]:
    """Names of the columns of images and of labels."""
    import pyarrow as arrow

    def holds_bytes(field: Any) -> bool:
        kind = field.type
        if arrow.types.is_struct(kind):
            return bool(kind.get_field_index("bytes") >= 0)
        named = field.name in (*_BYTES_COLUMNS, image)
        return named and bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))

    found = [field.name for field in schema if holds_bytes(field) and image in (None, field.name)]
    if len(found) != 1:
        raise DataError(_no_column(url, schema.names, found))
    labels = [name for name in _LABEL_COLUMNS if name in schema.names]
    numbers = [name for name in labels if arrow.types.is_integer(schema.field(name).type)]
    return found[0], numbers[0] if numbers else None


def _no_column(url: str, names: Sequence[str], found: Sequence[str]) -> Fault:
    columns = ", ".join(names)
    if len(found) > 1:
        return Fault(url, f"several columns hold images ({', '.join(found)})", "name one by --image")
    rule = "images are bytes, or structs of bytes and path"
    if any(name in _URL_COLUMNS for name in names):
        cure = "download the images by img2dataset into its webdataset format, and name the shards"
        return Fault(url, f"holds URLs and no images (columns {columns})", cure)
    return Fault(url, f"no column holds images (columns {columns}); {rule}", "name the column by --image")


def _no_labels(names: Sequence[str]) -> str:
    rule = f"none of {', '.join(_LABEL_COLUMNS)} is a column of whole numbers"
    return f"no image has a class: {rule} (columns {', '.join(names)})"


def _class_names(schema: Any, column: str | None) -> tuple[str, ...]:
    """The names that HuggingFace's metadata gives a column of labels."""
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(column, {}).get("names", ()) if column else ()
    return tuple(legible(str(name)) for name in names)


def _members(file: ShardFile, table: Any, columns: tuple[str, str | None]) -> Iterator[tuple[str, bytes]]:
    """The image of each row that has one, and its class."""
    import pyarrow as arrow

    image, label = columns
    stem, number = key_of(file.name.rpartition(".")[0]), -1
    try:
        for batch in table.iter_batches(_ROWS_AT_ONCE, columns=[image, *([label] if label else [])]):
            rows = batch.to_pydict()
            for at, value in enumerate(rows[image]):
                number += 1
                data = value.get("bytes") if isinstance(value, dict) else value
                if not data:
                    continue
                yield f"{stem}/{number:08d}.{_extension(data)}", data
                if label and rows[label][at] is not None:
                    yield f"{stem}/{number:08d}.{LABEL_EXTENSION}", str(rows[label][at]).encode()
    except arrow.ArrowException as error:
        raise DataError(Fault(file.url, f"is damaged ({error})", "copy it again")) from error


def _extension(data: bytes) -> str:
    """By the first bytes; what is no image is named like one, so that it is found to be none when it is decoded."""
    return next((kind for magic, kind in _MAGICS if data.startswith(magic)), _MAGICS[0][1])


def splits(names: Sequence[str]) -> Iterator[str]:
    """A note where files' names are of several splits, such as `train-00000-of-00002` and `test-00000-of-00001`."""
    found = sorted({match[1] for name in names if (match := re.match(r"([a-z]+)-\d{5}-of-", name))})
    if len(found) > 1:
        yield f"files of several splits are packed together ({', '.join(found)}); name one: '{found[-1]}-*.parquet'"
