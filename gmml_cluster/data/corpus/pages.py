"""Pages of a parquet column: where the bytes of a value lie in the file, and how much must be read to have them.

pyarrow decodes columns, but does not say where their pages lie (up to 26.0). Its answers are what is searched for here,
so levels, dictionary numbers and nulls need not be understood. After the format's `parquet.thrift`, Thrift's compact
protocol, and snappy's `format_description.txt`.
"""

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

CODECS = {0: "uncompressed", 1: "snappy", 2: "gzip", 4: "brotli", 6: "zstd"}
"""Compressions that are read, by their numbers in the format."""
_SNAPPY = 1
_SNAPPY_BLOCK_BYTES = 2**16
_HEADER_READ_BYTES = 2**16
_DICTIONARY, _DATA_V2 = 2, 3  # kinds of pages, of which 0 has data too
_LENGTH = struct.Struct("<I")

At = Callable[[int, int], bytes]
"""Bytes of a file from an offset on, so many."""


@dataclass(frozen=True)
class Excerpt:
    """Where some bytes lie in a file.

    Attributes:
        offset: first byte that must be read.
        length: how many must be read.
        inflated: bytes that they decompress to; 0 where they are not compressed, and are what is wanted.
        codec: how they are compressed, of `CODECS`.
        start: first byte of what is wanted in what they decompress to.
        size: bytes that are wanted.
    """

    offset: int
    length: int
    inflated: int
    codec: int
    start: int
    size: int

    def of(self, data: bytes | memoryview) -> bytes | memoryview:
        """What is wanted, of the bytes that were read.

        Raises:
            OSError, ValueError: these are damaged.
        """
        if not self.inflated:
            return data
        return inflate(self.codec, data, self.inflated)[self.start : self.start + self.size]


@dataclass(frozen=True)
class ValuePage:
    """The part of a page that holds values; all of it where its levels are compressed along.

    Attributes:
        is_dictionary: whether it has each value once, for numbers in the other pages.
        offset: of its stored bytes in the file.
        stored: these bytes.
        codec: how they are compressed.
        values: what they decompress to.
    """

    is_dictionary: bool
    offset: int
    stored: bytes
    codec: int
    values: bytes

    def excerpt(self, start: int, size: int) -> Excerpt:
        """Where some of its `values` lie in the file."""
        if not self.codec:
            return Excerpt(self.offset + start, size, 0, 0, 0, size)
        positions, stored = self._cuts
        first, last = bisect_right(positions, start) - 1, bisect_left(positions, start + size)
        begin, inflated = positions[first], positions[last] - positions[first]
        length = stored[last] - stored[first]
        return Excerpt(self.offset + stored[first], length, inflated, self.codec, start - begin, size)

    @cached_property
    def _cuts(self) -> tuple[list[int], list[int]]:
        """Positions in `values` and in `stored` between which each piece can be decompressed alone; both ends too."""
        if self.codec == _SNAPPY:
            return snappy_cuts(self.stored)
        return [0, len(self.values)], [0, len(self.stored)]


def inflate(codec: int, data: bytes | memoryview, inflated: int) -> bytes:
    """Decompress a piece between two cuts.

    Args:
        codec: of `CODECS`.
        data: the piece.
        inflated: bytes that it decompresses to.

    Raises:
        OSError, ValueError: it is damaged.
    """
    import pyarrow

    whole = b"".join((_varint_of(inflated), data)) if codec == _SNAPPY else data
    made: bytes = pyarrow.decompress(whole, inflated, CODECS[codec], asbytes=True)
    return made


def pages(at: At, start: int, end: int, codec: int) -> Iterator[ValuePage]:
    """The pages of a column chunk.

    Args:
        at: reads the file.
        start: first byte of the chunk.
        end: first byte behind it.
        codec: how its pages are compressed.

    Raises:
        OSError, ValueError, LookupError: it is damaged.
    """
    while start < end:
        header, length = _struct(at(start, min(_HEADER_READ_BYTES, end - start)), 0)
        kind, inflated, stored = header[1], header[2], header[3]
        start += length
        # the levels of a page of the second version precede its values, uncompressed
        about = header[8] if kind == _DATA_V2 else {}
        levels = about.get(5, 0) + about.get(6, 0)
        of_page = codec if about.get(7, True) else 0
        data = at(start + levels, stored - levels)
        values = data if not of_page else decompress_page(of_page, data, inflated - levels)
        yield ValuePage(kind == _DICTIONARY, start + levels, data, of_page, values)
        start += stored


def decompress_page(codec: int, data: bytes, inflated: int) -> bytes:
    """What the whole of a page decompresses to.

    Raises:
        OSError, ValueError: it is damaged.
    """
    return inflate(codec, data[len(_varint_of(inflated)) :] if codec == _SNAPPY else data, inflated)


def snappy_cuts(data: bytes) -> tuple[list[int], list[int]]:
    """Where a whole compressed stream can be cut: positions in what it decompresses to and in itself; both ends too.

    Writers compress blocks of 64 KiB one by one, so that nothing is copied from an earlier block. The format does not
    demand it: a block that copies from earlier ones is joined to them.
    """
    _, at = _varint(data, 0)
    position = 0
    positions, stored = [0], [at]
    while at < len(data):
        if position % _SNAPPY_BLOCK_BYTES == 0 and position:
            positions.append(position)
            stored.append(at)
        tag = data[at]
        kind, upper = tag & 3, tag >> 2
        if kind == 0:
            more = max(upper - 59, 0)
            size = 1 + (int.from_bytes(data[at + 1 : at + 1 + more], "little") if more else upper)
            at += 1 + more + size
        else:
            bytes_of_offset = (0, 1, 2, 4)[kind]
            back = int.from_bytes(data[at + 1 : at + 1 + bytes_of_offset], "little")
            size = upper + 1
            if kind == 1:
                size, back = (upper & 7) + 4, (tag >> 5 << 8) + back
            while back > position - positions[-1] and len(positions) > 1:
                del positions[-1], stored[-1]
            at += 1 + bytes_of_offset
        position += size
    return [*positions, position], [*stored, at]


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


def _varint_of(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes((*made, value))


def _struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """A structure of Thrift's compact protocol, by the numbers of its fields, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while data[at]:
        kind, step = data[at] & 15, data[at] >> 4
        at += 1
        if step:
            number += step
        else:
            number, at = _signed(data, at)
        fields[number], at = _value(kind, data, at)
    return fields, at + 1


def _value(kind: int, data: bytes, at: int) -> tuple[Any, int]:
    """A value of one of the types that headers of pages have."""
    if kind in (1, 2):  # true and false have no byte of their own
        return kind == 1, at
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _signed(data, at)
    if kind == 8:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind == 12:
        return _struct(data, at)
    raise ValueError(f"a page's header has a field of type {kind}")


def _signed(data: bytes, at: int) -> tuple[int, int]:
    value, at = _varint(data, at)
    return value >> 1 ^ -(value & 1), at


class ValueFinder:
    """Finds values of a column chunk in its pages, in the order of rows; holds the dictionary and one page more.

    A value lies behind its length, four bytes, in all encodings that lay values down as they are.

    Args:
        found: the chunk's pages.
    """

    def __init__(self, found: Iterator[ValuePage]) -> None:
        self._pages = found
        self._dictionary: dict[bytes, Excerpt] = {}
        self._page: ValuePage | None = None
        self._at = 0

    def find(self, value: bytes) -> Excerpt | None:
        """Where a value lies that is no earlier row's than the one before; None where it lies nowhere as it is."""
        lengthy = _LENGTH.pack(len(value)) + value
        while value not in self._dictionary:
            if self._page is not None:
                values, at = self._page.values, self._at
                if not values.startswith(lengthy, at):
                    at = values.find(lengthy, at)
                if at >= 0:
                    self._at = at + len(lengthy)
                    return self._page.excerpt(at + _LENGTH.size, len(value))
            self._page, self._at = next(self._pages, None), 0
            if self._page is None:
                return None
            if self._page.is_dictionary:
                self._dictionary = dict(_values_of(self._page))
        return self._dictionary[value]


def _values_of(page: ValuePage) -> Iterator[tuple[bytes, Excerpt]]:
    at = 0
    while at < len(page.values):
        (size,) = _LENGTH.unpack_from(page.values, at)
        at += _LENGTH.size
        yield page.values[at : at + size], page.excerpt(at, size)
        at += size
