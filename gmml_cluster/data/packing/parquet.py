"""Images of parquet files as HuggingFace publishes them: a column of structs {bytes, path} and one of labels."""

import json
import os
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any

from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.tar import BLOCK_BYTES, IMAGE_EXTENSIONS, NO_LABEL, RangeFile
from gmml_cluster.data.packing.source import Item, Source, distinct, key_of, legible
from gmml_cluster.data.reader.reads import read_range
from gmml_cluster.errors import DataError, Fault, PreflightError, StorageError
from gmml_cluster.wording import counted

_LABEL_COLUMNS = ("label", "labels", "fine_label")
_URL_COLUMNS = ("url", "URL", "image_url")
_BYTES_COLUMNS = ("image", "img", *IMAGE_EXTENSIONS)
_MAGICS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
_UNKNOWN = "bin"
_ROWS_AT_ONCE = 64


def read_parquet(files: Sequence[ShardFile], image: str | None) -> Source:
    """The rows that hold an image's bytes; these are copied into the temporary folder (TMPDIR) until they are packed.

    Rows are packed in a shuffled order, and parquet gives a row only with its whole row group, so each is read once.

    Args:
        files: the parquet files, of equal columns.
        image: column of the images; None takes the only one there is.

    Raises:
        PreflightError: pyarrow is not installed here.
        DataError: a file is damaged, or has no column of images.
        StorageError: a store does not answer, or the temporary folder is full.
    """
    scratch = TemporaryDirectory(prefix="gmml-unpacked-")
    path = Path(scratch.name, "images")
    items: list[Item] = []
    classes: tuple[str, ...] = ()
    empty = 0
    with open(path, "wb") as spool:
        for file in files:
            table = _open(file)
            columns = _columns(file.url, table.schema_arrow, image)
            classes = classes or _class_names(table.schema_arrow, columns[1])
            for item in _rows(file, table, columns, spool, path):
                empty += item is None
                items += [] if item is None else [item]
    unlabelled = () if columns[1] else (_no_labels(table.schema_arrow.names),)
    passed = (f"passed over {counted(empty, 'row')} without bytes of an image",) if empty else ()
    notes = (*_splits(files), *unlabelled, *passed)
    return Source(tuple(distinct(items)), classes, notes, scratch)


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


def _rows(
    file: ShardFile, table: Any, columns: tuple[str, str | None], spool: IO[bytes], path: Path
) -> Iterator[Item | None]:
    """The row's images, copied into the spool; None for each row without bytes."""
    import pyarrow as arrow

    image, label = columns
    stem, number = key_of(file.name.rpartition(".")[0]), 0
    try:
        batches = table.iter_batches(_ROWS_AT_ONCE, columns=[image, *([label] if label else [])])
        for batch in batches:
            rows = batch.to_pydict()
            for at, value in enumerate(rows[image]):
                data = value.get("bytes") if isinstance(value, dict) else value
                found = rows[label][at] if label else None
                name = f"{stem}/{number:08d}"
                number += 1
                yield _spooled(name, data, NO_LABEL if found is None else found, spool, path, file) if data else None
    except arrow.ArrowException as error:
        raise DataError(Fault(file.url, f"is damaged ({error})", "copy it again")) from error


def _spooled(name: str, data: bytes, label: int, spool: IO[bytes], path: Path, file: ShardFile) -> Item:
    start = spool.tell()
    try:
        spool.write(data)
    except OSError as error:
        problem = f"cannot hold the images of {file.url} ({error.strerror})"
        raise StorageError(Fault(str(path.parent), problem, "set TMPDIR to a folder with more space")) from error
    extension = next((kind for magic, kind in _MAGICS if data.startswith(magic)), _UNKNOWN)
    row = int(name.rpartition("/")[2])
    return Item(name, extension, label, partial(_read, path, start, len(data)), f"{file.url}, row {row}")


def _read(path: Path, start: int, length: int) -> bytes:
    with open(path, "rb") as spool:
        return os.pread(spool.fileno(), length, start)


def _splits(files: Sequence[ShardFile]) -> Iterator[str]:
    """A note where the files' names are of several splits, such as `train-00000-of-00002` and `test-00000-of-00001`."""
    names = sorted({found[1] for file in files if (found := re.match(r"([a-z]+)-\d{5}-of-", file.name))})
    if len(names) > 1:
        yield f"files of several splits are packed together ({', '.join(names)}); name one: '{names[-1]}-*.parquet'"
