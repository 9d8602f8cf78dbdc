"""Samples of a tar shard, read from its headers, by WebDataset's convention.

A member's name up to the first dot after the last slash is its sample's key, the rest is the name of a field.
Neighbours of one key are one sample; it ends where the key changes or a field comes a second time. Members are never
written anywhere by their names.
"""

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from gmml_cluster.data.corpus.account import Account, Reason, extension
from gmml_cluster.data.corpus.pages import Excerpt
from gmml_cluster.errors import DataError, Fault

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
LABEL_EXTENSION = "cls"
MASK_FIELD = "mask.png"
"""Field of the mask: the class of each pixel of the sample's image."""
NO_LABEL = -1
BLOCK_BYTES = 4 * 2**20
HEADER_BLOCK_BYTES = 2**16
MOST_LABEL = 2**31
MOST_IMAGE_BYTES = 2**32 - 1
_MEMBER = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)")
_BLOCKS_HELD = 2
_HEADER_BYTES = 512
_LONGEST_LABEL = 32
_COPY = "copy or pack it again"

_LENGTH, _CHECKSUM = slice(124, 136), slice(148, 156)  # fields of a header
_OCTAL = re.compile(rb" *([0-7]+)[ \0]*")
_CHECKSUM_AS_SPACES = 8 * ord(" ")

Read = Callable[[int, int], bytes]
_Header = tuple[str, bool, int, int]
"""Name, whether it is a file, first byte of its content, bytes of its content."""


@dataclass(frozen=True)
class Member:
    """A file within a tar."""

    name: str
    key: str
    field: str
    """The name behind the first dot, in small letters."""
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
    """First byte, in the shard, or in what its `excerpt` decompresses to."""
    length: int
    label: int
    """Class, or -1 where there is none."""
    mask_offset: int = 0
    mask_length: int = 0
    """Bytes of the mask; 0 where there is none."""
    excerpt: Excerpt | None = None
    """Where the image lies in the shard, if it is compressed there."""


def read_samples(
    where: str,
    read: Read,
    size: int,
    block_bytes: int = BLOCK_BYTES,
    digest: Callable[[bytes], None] | None = None,
    *,
    image: str = "",
    account: Account | None = None,
) -> Iterator[Sample]:
    """Samples of a shard in the order of their images.

    Args:
        where: the shard's URL, for messages.
        read: gives `length` bytes from `start`.
        size: bytes of the shard.
        block_bytes: bytes asked for at once.
        digest: is given each image's bytes, then those of its mask if it has one, before the sample is yielded; None
            leaves them unread.
        image: field that holds the image; empty takes a sample's first jpg, jpeg, png or webp.
        account: counts the members that make no sample.

    Raises:
        DataError: the shard is damaged or cut short, or an image has 4 GiB or more.
    """
    source, account = RangeFile(read, size, block_bytes), account or Account()
    ends: list[int] = []
    for fields in _grouped(_members(where, source, size, account, ends)):
        found = (
            fields.get(image) if image else next((fields[name] for name in fields if name in IMAGE_EXTENSIONS), None)
        )
        mask = None if found is None else _mask(fields, found)
        _count_rest(fields, found, mask, account)
        if found is None:
            continue
        for member in (found, mask):
            if member is not None:
                _demand_short(where, member)
                if digest is not None:
                    digest(source.at(member.offset, member.length))
        label = _label(source, fields.get(LABEL_EXTENSION), account)
        at = (0, 0) if mask is None else (mask.offset, mask.length)
        yield Sample(found.name, found.offset, found.length, label, *at)
    _check_end(where, source, ends[0], size)  # behind the last image, whose block a read of the tail would displace


def _grouped(members: Iterator[Member]) -> Iterator[dict[str, Member]]:
    """The fields of each sample, in the order of its members."""
    fields: dict[str, Member] = {}
    key = None
    for member in members:
        if fields and (member.key != key or member.field in fields):
            yield fields
            fields = {}
        key, fields[member.field] = member.key, member
    if fields:
        yield fields


def _members(where: str, source: "RangeFile", size: int, account: Account, ends: list[int]) -> Iterator[Member]:
    for name, is_file, offset, length in _headers(where, source, size, ends):
        found = _MEMBER.fullmatch(name)
        if not is_file:
            account.add(Reason.NO_FILE, name)
        elif found is None:
            account.add(Reason.NO_KEY, name)
        else:
            yield Member(name, found[1], found[2].lower(), offset, length)


def _mask(fields: dict[str, Member], image: Member) -> Member | None:
    """The sample's mask; an empty one is none, as a length of 0 says so in the index."""
    found = fields.get(MASK_FIELD)
    return found if found is not None and found is not image and found.length else None


def _demand_short(where: str, member: Member) -> None:
    if member.length > MOST_IMAGE_BYTES:
        rule = "an image has less than 4 GiB"
        raise DataError(Fault(f"{where}, member {member.name}", f"{member.length} bytes; {rule}", "pack it without"))


def _count_rest(fields: dict[str, Member], image: Member | None, mask: Member | None, account: Account) -> None:
    """Count the members of a sample that are neither its image nor its class nor its mask."""
    for field, member in fields.items():
        if member is image or member is mask or (field == LABEL_EXTENSION and image is not None):
            continue
        if field == LABEL_EXTENSION:
            account.add(Reason.LONE_CLASS, member.name)
        elif extension(field) in IMAGE_EXTENSIONS:  # extension() is empty where the field has no dot
            account.add(Reason.DOTTED, member.name)
        else:
            second = field in IMAGE_EXTENSIONS and image is not None
            account.add(Reason.SECOND if second else Reason.OTHER, member.name)


def _headers(where: str, source: "RangeFile", size: int, ends: list[int]) -> Iterator[_Header]:
    """All members but folders; `ends` then has the byte at which the end was found.

    Headers of files with short names are read here, as tarfile takes several times as long and a corpus has more of
    them than images. From the first other header on tarfile reads them all: long names, links, sparse files, the end.
    """
    position = 0
    while (plain := _plain_file(source.at(position, _HEADER_BYTES))) is not None:
        name, length = plain
        offset = position + _HEADER_BYTES
        _demand_inside(where, name, offset + length, size)
        yield name, True, offset, length
        position = offset + length + -length % _HEADER_BYTES
    source.seek(position)
    try:
        with tarfile.open(fileobj=source, mode="r:") as tar:
            for info in tar:
                _demand_inside(where, info.name, info.offset_data + info.size, size)
                if not info.isdir():
                    yield info.name, info.isreg() and not info.issparse(), info.offset_data, info.size
                tar.members = []  # type: ignore[attr-defined]  # tarfile would keep every header
            ends.append(tar.offset)
    except tarfile.TarError as error:
        raise DataError(Fault(where, f"is no tar ({error}); shards are plain tar files", _COPY)) from error


def _plain_file(header: bytes) -> tuple[str, int] | None:
    """Name and length of a file whose header says all about it; None of any other header, and of a damaged one."""
    if header[257:262] != b"ustar" or header[156:157] != tarfile.REGTYPE or header[345:346] != b"\0":
        return None
    length, checksum = (_OCTAL.fullmatch(header[field]) for field in (_LENGTH, _CHECKSUM))
    if length is None or checksum is None:
        return None
    if sum(header) - sum(header[_CHECKSUM]) + _CHECKSUM_AS_SPACES != int(checksum[1], 8):
        return None
    return header[:100].partition(b"\0")[0].decode(tarfile.ENCODING, "surrogateescape"), int(length[1], 8)


def _demand_inside(where: str, name: str, end: int, size: int) -> None:
    if end > size:
        raise DataError(Fault(where, f"{name} ends beyond byte {size}; the shard is cut short", "copy it again"))


def _check_end(where: str, source: "RangeFile", end: int, size: int) -> None:
    """Read the tail: tarfile takes a damaged header, or the end of the first of two joined tars, for the end of all."""
    if source.at(end, _HEADER_BYTES) != bytes(_HEADER_BYTES):
        what = f"neither a member nor the end mark at byte {end}; the shard is damaged or cut short"
        raise DataError(Fault(where, what, _COPY))
    for start in range(end + _HEADER_BYTES, size, HEADER_BLOCK_BYTES):
        block = source.at(start, min(HEADER_BLOCK_BYTES, size - start))
        if block.count(0) < len(block):
            at = start + len(block) - len(block.lstrip(b"\0"))
            what = f"its members end at byte {end}, and byte {at} of {size} is not zero; a shard is one whole tar"
            raise DataError(Fault(where, what, "join tars by `tar -A` and not by `cat`, or copy or pack it again"))


def _label(source: "RangeFile", member: Member | None, account: Account) -> int:
    if member is None:
        return NO_LABEL
    text = source.at(member.offset, min(member.length, _LONGEST_LABEL)).strip()
    if member.length <= _LONGEST_LABEL and text.isdigit() and int(text) < MOST_LABEL:
        return int(text)
    if text != b"%d" % NO_LABEL:
        account.add(Reason.UNREAD_CLASS, member.name)
    return NO_LABEL


class RangeFile(io.RawIOBase):
    """A shard as a file, read by blocks; the last ones are held, so that a pass forwards asks for each byte once.

    fsspec's `BlockCache` does the same, but its import brings asyncio and takes 0.1 s, in a dry run of a local job too.
    """

    def __init__(self, read: Read, size: int, block_bytes: int, blocks_held: int = _BLOCKS_HELD) -> None:
        super().__init__()
        self._size, self._position, self._block_bytes = size, 0, block_bytes

        @lru_cache(blocks_held)
        def block(start: int) -> bytes:
            return read(start, min(block_bytes, size - start))

        self._block = block

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
        data = self.at(self._position, self._size if size is None or size < 0 else size)
        self._position += len(data)
        return data

    def at(self, offset: int, length: int) -> bytes:
        """Bytes of a range, without moving."""
        end = min(offset + length, self._size)
        start = offset - offset % self._block_bytes
        if end <= start + self._block_bytes and offset < end:
            return self._block(start)[offset - start : end - start]
        blocks = [self._block(each) for each in range(start, end, self._block_bytes)]
        return b"".join(blocks)[offset - start : end - start]
