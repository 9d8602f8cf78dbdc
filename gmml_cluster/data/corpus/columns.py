"""Tables of many rows as one object, a column at a time: read without a step of Python for each row.

A file holds a magic, the length and CRC32C of a JSON header, the header, and the arrays of the columns, each at a
multiple of 8 bytes, so that they can be used where they lie.
"""

import json
import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from gmml_cluster.errors import DataError, Fault

MAGIC = b"GMMLTAB1"
_HEADER = struct.Struct("<8sII")
_ALIGNED = 8
_ARRAYS = {"number": ("<i8",), "decimal": ("<i8",), "hex": ("|u1",), "text": ("<i8", "|u1"), "empty": ()}
"""Types of a column's arrays by its kind."""


class Column:
    """One field of all rows: whole numbers, or texts as numbers, as bytes in hexadecimal, as such, or all empty.

    Args:
        kind: one of `_ARRAYS`.
        arrays: as the kind has them; a text's are where each begins and ends (rows + 1), and their bytes in a row.
        rows: how many.
    """

    def __init__(self, kind: str, arrays: Sequence[NDArray[Any]], rows: int) -> None:
        self.kind, self.arrays, self.rows = kind, tuple(arrays), rows

    @classmethod
    def of_numbers(cls, values: Sequence[int]) -> "Column":
        """Whole numbers of at most 63 bits."""
        return cls("number", [np.array(values, np.int64)], len(values))

    @classmethod
    def of_texts(cls, values: Sequence[str]) -> "Column":
        """Texts, in the smallest kind from which all come back as they are."""
        for kind, make in (("empty", _no_arrays), ("decimal", _decimals), ("hex", _hex_digits)):
            arrays = make(values)
            if arrays is not None:
                return cls(kind, arrays, len(values))
        encoded = [value.encode("utf-8", "surrogateescape") for value in values]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls("text", [ends, np.frombuffer(b"".join(encoded), np.uint8)], len(values))

    @property
    def numbers(self) -> NDArray[np.int64]:
        """The numbers (rows,)."""
        found: NDArray[np.int64] = self.arrays[0]
        return found

    def texts(self, start: int = 0, stop: int | None = None) -> list[str]:
        """The texts of some rows, or of all."""
        stop = self.rows if stop is None else stop
        if self.kind == "empty":
            return [""] * (stop - start)
        if self.kind == "decimal":
            return list(map(str, self.arrays[0][start:stop].tolist()))
        if self.kind == "hex":
            digits, width = self.arrays[0][start:stop].tobytes().hex(), 2 * self.arrays[0].shape[1]
            return [digits[at : at + width] for at in range(0, len(digits), width)]
        ends = self.arrays[0][start : stop + 1].tolist()
        data = self.arrays[1][ends[0] : ends[-1]].tobytes()
        found = (data[a - ends[0] : b - ends[0]] for a, b in pairwise(ends))
        return [value.decode("utf-8", "surrogateescape") for value in found]


def _no_arrays(values: Sequence[str]) -> list[NDArray[Any]] | None:
    return None if any(values) else []


def _decimals(values: Sequence[str]) -> list[NDArray[Any]] | None:
    try:
        numbers = np.array([int(value) for value in values], np.int64)
    except (ValueError, OverflowError):
        return None
    return [numbers] if list(map(str, numbers.tolist())) == list(values) else None


def _hex_digits(values: Sequence[str]) -> list[NDArray[Any]] | None:
    width, joined = len(values[0]), "".join(values)
    try:
        found = bytes.fromhex(joined)
    except ValueError:
        return None
    if width % 2 or found.hex() != joined or any(len(value) != width for value in values):
        return None
    return [np.frombuffer(found, np.uint8).reshape(len(values), width // 2)]


def pack(about: Mapping[str, Any], columns: Mapping[str, Column]) -> bytes:
    """The file of a table; equal tables give equal bytes.

    Args:
        about: whatever is to be known beside the rows, for JSON.
        columns: by name.
    """
    described = {name: [column.kind, column.rows, _shapes(column)] for name, column in columns.items()}
    # by name, as the keys of the header are sorted
    body = b"".join(_padded(array.tobytes()) for name in sorted(columns) for array in columns[name].arrays)
    fields = {"about": about, "columns": described, "crc": _crc32c(body)}
    header = json.dumps(fields, sort_keys=True).encode()
    header += b" " * (-(len(header) + _HEADER.size) % _ALIGNED)
    return _HEADER.pack(MAGIC, len(header), _crc32c(header)) + header + body


def unpack(where: str, data: bytes) -> tuple[dict[str, Any], dict[str, Column]]:
    """What `pack` was given; the columns' arrays lie in `data`.

    Raises:
        DataError: it is no such table, or damaged.
    """
    try:
        magic, length, crc = _HEADER.unpack_from(data)
        start = _HEADER.size + length
        header = data[_HEADER.size : start]
        if magic != MAGIC or _crc32c(header) != crc:
            raise ValueError("its header is another, or damaged")
        fields = json.loads(header)
        if _crc32c(data[start:]) != fields["crc"]:
            raise ValueError("its columns disagree with their checksum")
        return fields["about"], dict(_columns(data, start, fields["columns"]))
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise DataError(Fault(where, f"is not a valid table of shards ({error})", "make it again")) from error


def _columns(data: bytes, at: int, described: Mapping[str, Any]) -> Iterator[tuple[str, Column]]:
    for name, (kind, rows, shapes) in sorted(described.items()):
        arrays = []
        for dtype, shape in zip(_ARRAYS[kind], shapes, strict=True):
            array = np.frombuffer(data, dtype, math.prod(shape), at).reshape(shape)
            arrays.append(array)
            at += array.nbytes + -array.nbytes % _ALIGNED
        yield name, Column(kind, arrays, rows)


def _shapes(column: Column) -> list[list[int]]:
    return [list(array.shape) for array in column.arrays]


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNED)


def _crc32c(data: bytes) -> int:
    value: int = google_crc32c.value(data)
    return value
