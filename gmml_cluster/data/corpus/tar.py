"""Samples of a tar shard, read from its headers. WebDataset's convention: members of one key are neighbours.

The key of a member is its name up to the first dot after the last slash. Members are never written anywhere by their
names.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from gmml_cluster.errors import DataError

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
LABEL_EXTENSION = "cls"
NO_LABEL = -1
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
BLOCK_BYTES = 4 * 2**20
HEADER_BLOCK_BYTES = 2**16
_HEADER_BYTES = 512
_MOST_PADDING_BYTES = 2**20
_LONGEST_LABEL = 32
_MOST_LABEL = 2**31

Read = Callable[[int, int], bytes]


@dataclass(frozen=True)
class Member:
    """A file within a tar."""

    name: str
    key: str
    extension: str
    offset: int
    """First byte of its content."""
    length: int
    """Bytes of its content."""


@dataclass(frozen=True)
class Sample:
    """An image of a shard, with its class."""

    name: str
    """Name of the image's member."""
    offset: int
    length: int
    label: int
    """Class, or -1 where there is none."""


def read_samples(
    where: str,
    read: Read,
    size: int,
    block_bytes: int = BLOCK_BYTES,
    digest: Callable[[bytes], None] | None = None,
) -> Iterator[Sample]:
    """Samples of a shard in the order of their images; members without an image make none.

    The first image of a key is taken; a class is a `.cls` member that holds one number.

    Args:
        where: the shard's URL, for messages.
        read: gives `length` bytes from `start`.
        size: bytes of the shard.
        block_bytes: bytes asked for at once.
        digest: is given each image's bytes, before its sample is yielded; None leaves them unread.

    Raises:
        DataError: the shard is damaged or cut short.
    """
    source = RangeFile(read, size, block_bytes)
    for _, group in groupby(_members(where, source, size), key=lambda member: member.key):
        members = list(group)
        image = next((member for member in members if member.extension in IMAGE_EXTENSIONS), None)
        if image is not None:
            label = next((member for member in members if member.extension == LABEL_EXTENSION), None)
            if digest is not None:
                digest(source.at(image.offset, image.length))
            yield Sample(image.name, image.offset, image.length, _label(source, label))


def read_names(where: str, read: Read, size: int) -> Iterator[str]:
    """Names of all members of a shard but folders, read from its headers.

    Raises:
        DataError: the shard is damaged or cut short.
    """
    source = RangeFile(read, size, HEADER_BLOCK_BYTES)
    return (info.name for info in _headers(where, source, size) if not info.isdir())


def _members(where: str, source: "RangeFile", size: int) -> Iterator[Member]:
    for info in _headers(where, source, size):
        found = _MEMBER.fullmatch(info.name)
        if info.isreg() and found is not None:
            yield Member(info.name, found[1], found[2].lower(), info.offset_data, info.size)


def _headers(where: str, source: "RangeFile", size: int) -> Iterator[tarfile.TarInfo]:
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            for info in tar:
                if info.offset_data + info.size > size:
                    raise DataError(
                        f"{where}: {info.name} ends beyond byte {size}; the shard is cut short; copy it again"
                    )
                yield info
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
            end = tar.offset
    except tarfile.TarError as error:
        raise DataError(f"{where}: is no tar ({error}); shards are plain tar files; copy or pack it again") from error
    _check_end(where, source, end, size)


def _check_end(where: str, source: "RangeFile", end: int, size: int) -> None:
    """Tarfile takes a damaged header for the end: the mark of the end must really stand there, near the last byte."""
    if source.at(end, _HEADER_BYTES) != bytes(_HEADER_BYTES):
        what = f"neither a member nor the end mark at byte {end}"
        raise DataError(f"{where}: {what}; the shard is damaged or cut short; copy or pack it again")
    if size - end > _MOST_PADDING_BYTES:
        what = f"members end at byte {end} of {size}"
        raise DataError(f"{where}: {what}; a shard is one whole tar; copy or pack it again")


def _label(source: "RangeFile", member: Member | None) -> int:
    if member is None or member.length > _LONGEST_LABEL:
        return NO_LABEL
    text = source.at(member.offset, member.length).strip()
    return int(text) if text.isdigit() and int(text) < _MOST_LABEL else NO_LABEL


class RangeFile(io.RawIOBase):
    """A shard as a file, read by blocks; the last two are held, so that a pass forwards asks for each byte once."""

    def __init__(self, read: Read, size: int, block_bytes: int) -> None:
        super().__init__()
        self._range, self._size, self._block_bytes = read, size, block_bytes
        self._position = 0
        self._blocks: dict[int, bytes] = {}

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(self._size - self._position, 0)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted > 0:
            index, start = divmod(self._position, self._block_bytes)
            part = self._block(index)[start : start + wanted]
            if not part:
                break
            parts.append(part)
            self._position += len(part)
            wanted -= len(part)
        return b"".join(parts)

    def at(self, offset: int, length: int) -> bytes:
        """Bytes of a place, without moving."""
        position, self._position = self._position, offset
        data = self.read(length)
        self._position = position
        return data

    def _block(self, index: int) -> bytes:
        if index not in self._blocks:
            while len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[index] = self._range(index * self._block_bytes, self._block_bytes)
        return self._blocks[index]
