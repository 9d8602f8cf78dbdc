"""Parquet files with the bytes of images, as HuggingFace publishes them: their rows, and where each image lies in them.

pyarrow reads the rows, and is the judge of what an image's bytes are; `pages.py` finds these bytes in the file
(decision 0040). It is imported where a file is opened: it takes 0.1 s, and most runs read tars.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from gmml_cluster.data.corpus.account import Account, Reason
from gmml_cluster.data.corpus.foreign import PARQUET_SUFFIX
from gmml_cluster.data.corpus.pages import CODECS, Excerpt, ValueFinder, pages
from gmml_cluster.data.corpus.tar import (
    BLOCK_BYTES,
    IMAGE_EXTENSIONS,
    LABEL_EXTENSION,
    MOST_LABEL,
    NO_LABEL,
    RangeFile,
    Read,
    Sample,
)
from gmml_cluster.errors import DataError, Fault, NotInstalled

MOST_INFLATED = 4 * 2**20
"""Bytes that may have to be decompressed beside an image to have it."""
LABEL_COLUMNS = ("label", "labels", "fine_label")
_URL_COLUMNS = ("url", "URL", "image_url")
_BYTES_COLUMNS = ("image", "img", *IMAGE_EXTENSIONS)
_MAGICS = ((b"\xff\xd8", "jpg"), (b"\x89PNG", "png"), (b"RIFF", "webp"))
_ROWS_AT_ONCE = 16
_BLOCKS_HELD = 8
"""Of `BLOCK_BYTES`: a page is read by pyarrow, then once more here; HuggingFace's have up to some 20 MB."""
_PACK = "gmml corpus pack makes tar shards of it"


@dataclass(frozen=True)
class ImageRow:
    """A row of a parquet file.

    Attributes:
        number: of the row in its file.
        image: bytes of its image; empty where it has none.
        label: as the file has it; None where it has none.
    """

    number: int
    image: bytes
    label: Any

    @property
    def name(self) -> str:
        """The number, as the key of a member of a tar."""
        return f"{self.number:08d}"

    @property
    def member(self) -> str:
        """Name of its image. By the first bytes: what is no image is found to be none when it is decoded."""
        kind = next((kind for magic, kind in _MAGICS if self.image.startswith(magic)), _MAGICS[0][1])
        return f"{self.name}.{kind}"


def is_parquet(url: str) -> bool:
    """Whether a shard is a parquet file, by its name."""
    return url.endswith(PARQUET_SUFFIX)


def demand_pyarrow(url: str) -> None:
    """Refuse a parquet file where pyarrow is not installed; anything else passes.

    Raises:
        NotInstalled: it is not installed here.
    """
    if is_parquet(url) and find_spec("pyarrow") is None:
        what = f"not installed here, and {url.rpartition('/')[2]} needs it"
        raise NotInstalled(Fault("pyarrow", what, "pip install 'gmml-cluster[parquet]'"))


def splits_of(names: Iterable[str]) -> list[str]:
    """The splits that files' names have, such as `train-00000-of-00002` and `test-00000-of-00001`."""
    return sorted({match[1] for name in names if (match := re.match(r"([a-z]+)-\d{5}-of-", name))})


class ImageTable:
    """A parquet file with a column of images.

    Args:
        url: of the file, for messages.
        read: gives `length` bytes from `start`.
        size: bytes of the file.
        image: column of the images; None takes the only one there is.

    Attributes:
        rows: how many there are.
        columns: names of all columns.
        label: name of the column of classes, numbers or texts; None where there is none.
        classes: names of the classes, where HuggingFace's metadata has them.

    Raises:
        PreflightError: pyarrow is not installed here.
        DataError: the file is damaged, or has no column of images, or several.
    """

    def __init__(self, url: str, read: Read, size: int, image: str | None) -> None:
        demand_pyarrow(url)
        import pyarrow as arrow
        from pyarrow import parquet

        self._url, self._broken = url, (arrow.ArrowException, OSError, ValueError, LookupError)
        self._source = RangeFile(read, size, BLOCK_BYTES, _BLOCKS_HELD)
        try:
            # pages one by one, as a row group may be all of the file
            self._file = parquet.ParquetFile(self._source, buffer_size=2**20, pre_buffer=False)
        except self._broken as error:
            raise DataError(Fault(url, f"is not a valid parquet file ({error})", "copy it again")) from error
        schema = self._file.schema_arrow
        self._image = _image_column(url, schema, image)
        self._leaf = f"{self._image}.bytes" if arrow.types.is_struct(schema.field(self._image).type) else self._image
        self.rows: int = self._file.metadata.num_rows
        self.columns: tuple[str, ...] = tuple(schema.names)
        self.label, self.classes = self._guarded(_label_column, schema)

    def __iter__(self) -> Iterator[ImageRow]:
        """All rows, in order; a few are held.

        Raises:
            DataError: the file is damaged.
        """
        first = 0
        for group in range(self._file.num_row_groups):
            yield from self._rows_of(group, first)
            first += self._file.metadata.row_group(group).num_rows

    def located(self) -> Iterator[tuple[ImageRow, Excerpt | None]]:
        """All rows, and where the image of each lies in the file; None where a row has none.

        Raises:
            DataError: the file is damaged, or its images do not lie in it so that one can be read alone.
        """
        first = 0
        for group in range(self._file.num_row_groups):
            finder = ValueFinder(self._pages_of(group))  # a page has less than 2 GiB, and so an image
            for row in self._rows_of(group, first):
                yield row, self._guarded(self._find, finder, row) if row.image else None
            first += self._file.metadata.row_group(group).num_rows

    @property
    def has_classes(self) -> bool:
        """Whether its labels are numbers, or names that have one."""
        import pyarrow as arrow

        kind = self._file.schema_arrow.field(self.label).type if self.label else arrow.null()
        return bool(self.classes) or bool(arrow.types.is_integer(kind))

    def class_of(self, row: ImageRow) -> int | None:
        """The row's class, `NO_LABEL` where it has none; None where what it has is none."""
        if row.label is None or row.label == NO_LABEL:
            return NO_LABEL
        if isinstance(row.label, str):
            return self.classes.index(row.label) if row.label in self.classes else None
        return row.label if isinstance(row.label, int) and 0 <= row.label < MOST_LABEL else None

    def _rows_of(self, group: int, first: int) -> Iterator[ImageRow]:
        names = [self._leaf, *([self.label] if self.label else [])]
        batches = self._file.iter_batches(_ROWS_AT_ONCE, row_groups=[group], columns=names, use_threads=False)
        while (batch := self._guarded(next, batches, None)) is not None:
            held = batch.to_pydict()
            labels = held[self.label] if self.label else [None] * len(batch)
            for number, (value, label) in enumerate(zip(held[self._image], labels, strict=True), first):
                yield ImageRow(number, (value["bytes"] if isinstance(value, dict) else value) or b"", label)
            first += len(batch)

    def _pages_of(self, group: int) -> Iterator[Any]:
        found = self._file.metadata.row_group(group)
        chunk = next(c for c in map(found.column, range(found.num_columns)) if c.path_in_schema == self._leaf)
        codec = next((number for number, name in CODECS.items() if name == chunk.compression.lower()), None)
        if codec is None:
            what = f"its images are compressed by {chunk.compression}; {', '.join(CODECS.values())} are read"
            raise DataError(Fault(self._url, what, _PACK))
        start = chunk.data_page_offset if chunk.dictionary_page_offset is None else chunk.dictionary_page_offset
        return pages(self._source.at, start, start + chunk.total_compressed_size, codec)

    def _find(self, finder: ValueFinder, row: ImageRow) -> Excerpt:
        where = f"{self._url}, row {row.number}"
        found = finder.find(row.image)
        if found is None:
            what = "the image does not lie in the file as it is, but in an encoding of its own"
            raise DataError(Fault(where, what, _PACK))
        if found.inflated > found.size + MOST_INFLATED:
            what = f"to read this image, of {found.size} bytes, {found.inflated} would be decompressed"
            rule = f"as {CODECS[found.codec]} compresses a page as a whole; {MOST_INFLATED} bytes more are allowed"
            raise DataError(Fault(where, f"{what}, {rule}", f"{_PACK}; or write it without compression"))
        return found

    def _guarded(self, action: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return action(*arguments)
        except self._broken as error:
            raise DataError(Fault(self._url, f"is damaged ({error})", "copy it again")) from error


def read_samples(
    url: str, read: Read, size: int, digest: Callable[[bytes], None], *, image: str, account: Account
) -> Iterator[Sample]:
    """Samples of a parquet file in the order of its rows, as `tar.read_samples` has those of a tar.

    Raises:
        PreflightError: pyarrow is not installed here.
        DataError: the file is damaged, or its images cannot be read one by one.
    """
    table = ImageTable(url, read, size, image or None)
    for row, excerpt in table.located():
        if excerpt is None:
            account.add(Reason.EMPTY_ROW, row.name)
            continue
        digest(row.image)
        label = table.class_of(row)
        if label is None:
            account.add(Reason.UNREAD_CLASS, f"{row.name}.{LABEL_EXTENSION}")
        label = NO_LABEL if label is None else label
        if excerpt.inflated:
            yield Sample(row.member, excerpt.start, excerpt.size, label, excerpt=excerpt)
        else:
            yield Sample(row.member, excerpt.offset, excerpt.size, label)


def _image_column(url: str, schema: Any, image: str | None) -> str:
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
    return str(found[0])


def _no_column(url: str, names: Sequence[str], found: Sequence[str]) -> Fault:
    columns, cure = ", ".join(names), "name the column by the corpus' `image`, or --image"
    if len(found) > 1:
        return Fault(url, f"several columns hold images ({', '.join(found)})", cure)
    rule = "images are bytes, or structs of bytes and path"
    if any(name in _URL_COLUMNS for name in names):
        cure = "download the images by img2dataset into its webdataset format, and name the shards"
        return Fault(url, f"holds URLs and no images (columns {columns})", cure)
    return Fault(url, f"no column holds images (columns {columns}); {rule}", cure)


def _label_column(schema: Any) -> tuple[str | None, tuple[str, ...]]:
    """Name of the column of classes, of numbers before texts, and the names that HuggingFace gives the classes."""
    import pyarrow as arrow

    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    present = [name for name in LABEL_COLUMNS if name in schema.names]
    for of_kind in (arrow.types.is_integer, arrow.types.is_string):
        for name in present:
            if of_kind(schema.field(name).type):
                return name, tuple(map(str, features.get(name, {}).get("names", ())))
    return None, ()
