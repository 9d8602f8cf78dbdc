"""All samples of a source without an object for each: rows and names in unnamed temporary files, mapped into memory."""

import mmap
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Protocol, overload

import numpy as np
from numpy.typing import NDArray

from gmml_cluster.data.packing.source import Item
from gmml_cluster.errors import Fault, StorageError

ROW = np.dtype(
    [
        ("file", "<u4"),
        ("label", "<i4"),
        ("offset", "<u8"),
        ("length", "<u4"),
        ("crc", "<u4"),
        ("mask_offset", "<u8"),
        ("mask_length", "<u4"),
        ("mask_crc", "<u4"),
        ("name_end", "<u8"),
    ]
)
"""48 bytes a sample: which file, the class, where image and mask lie, and where its name ends among the names."""

Row = tuple[int, ...]


class MakeItem(Protocol):
    """Makes an item of a row and its name."""

    def __call__(self, row: Row, name: str) -> Item: ...


class Catalog(Sequence[Item]):
    """The samples of a source in order; of 10**8 samples about 8 GB in TMPDIR, of which the kernel keeps what fits.

    Args:
        make: makes the item of a row.
    """

    def __init__(self, make: MakeItem) -> None:
        self._make = make
        # closed with this object; they have no name that a killed process could leave behind
        self._rows: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._names: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self._count = self._name_bytes = 0
        self._mapped: tuple[NDArray[np.void], mmap.mmap] | None = None

    def add(self, rows: NDArray[np.void], names: Sequence[str]) -> None:
        """Append samples; `name_end` of the rows is set here."""
        encoded = [name.encode("utf-8", "surrogateescape") for name in names]
        rows["name_end"] = self._name_bytes + np.cumsum([len(name) for name in encoded], dtype=np.uint64)
        try:
            self._rows.write(rows.tobytes())
            self._names.write(b"".join(encoded))
        except OSError as error:
            problem = f"cannot hold the list of samples ({error.strerror})"
            raise StorageError(
                Fault(tempfile.gettempdir(), problem, "set TMPDIR to a folder with more space")
            ) from error
        self._count += len(encoded)
        self._name_bytes += sum(map(len, encoded))
        self._mapped = None

    def take(self, positions: NDArray[np.int64]) -> list[Item]:
        """The samples at these positions."""
        rows, names = self._map()
        starts = np.where(positions > 0, rows["name_end"][np.maximum(positions - 1, 0)], 0).tolist()
        return [
            self._make(row, names[start : row[-1]].decode("utf-8", "surrogateescape"))
            for start, row in zip(starts, rows[positions].tolist(), strict=True)
        ]

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, position: int) -> Item: ...
    @overload
    def __getitem__(self, position: slice) -> list[Item]: ...
    def __getitem__(self, position: int | slice) -> Item | list[Item]:
        if isinstance(position, slice):
            return self.take(np.arange(self._count)[position])
        return self.take(np.array([range(self._count)[position]]))[0]

    def __iter__(self) -> Iterator[Item]:
        for start in range(0, self._count, 2**12):
            yield from self[start : start + 2**12]

    def _map(self) -> tuple[NDArray[np.void], mmap.mmap]:
        if self._mapped is None:
            self._rows.flush()
            self._names.flush()
            rows = np.memmap(self._rows, ROW, "r", shape=(self._count,))
            self._mapped = rows, mmap.mmap(self._names.fileno(), 0, access=mmap.ACCESS_READ)
        return self._mapped
