"""Reading checkpoints by tensor name and range, block by block, each block compared with its checksum.

One wrong answer of a store is not yet a damaged checkpoint: blocks and manifest are read again before that.
"""

import hashlib
import json
from collections import OrderedDict
from typing import Any

import google_crc32c
import numpy as np
import torch
from numpy.typing import NDArray

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.store.protocol import NotFound, Store
from gmml_cluster.store.verified import read_verified
from gmml_cluster.train.checkpoints.save import BLOCK_BYTES, VERSION

_CACHED_READS = 4


class CheckpointReader:
    """One committed checkpoint.

    Args:
        store: the run root.
        folder: the checkpoint's folder.
        sha256: digest of the manifest, from the log.

    Raises:
        CheckpointError: the manifest is missing, is not the one that was committed, or is of another version.
    """

    def __init__(self, store: Store, folder: str, sha256: str) -> None:
        self._store, self._folder = store, folder
        self.manifest = _manifest(store, f"{folder}/manifest.json", sha256)
        self._files = {file["file"]: file for file in self.manifest["files"]}
        self._cache: OrderedDict[tuple[str, int, int], bytes] = OrderedDict()
        self._verified: dict[str, list[bytes]] = {}

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each tensor by name."""
        return {name: tuple(tensor["shape"]) for name, tensor in self.manifest["tensors"].items()}

    def read(self, name: str, key: str, start: int, numel: int) -> torch.Tensor:
        """Elements `start` to `start + numel` of the flattened tensor.

        Args:
            key: `value`, `exp_avg` or `exp_avg_sq`.

        Raises:
            CheckpointError: a block is damaged, or the slices leave an element out.
        """
        out = torch.empty(numel, dtype=torch.float32)
        target, filled = out.numpy(), 0
        for part in self._slices(name, key):
            low, high = max(start, part["start"]), min(start + numel, part["start"] + part["numel"])
            if low < high:
                at = part["offset"] + 4 * (low - part["start"])
                target[low - start : high - start] = self._floats(part["file"], at, high - low)
                filled += high - low
        if filled != numel:
            problem = f"{name} ({key}) has {filled} of elements {start} to {start + numel}; it must have each once"
            raise CheckpointError(Fault(self._where, problem, "resume from the one before"))
        return out

    def verify(self, rank: int, ranks: int) -> None:
        """Check this rank's share of the files, every `ranks`-th from `rank`, block by block.

        The share stays in memory for `read`, so that it is read once: most often it is what this very rank saved, and
        as much as it allocates for its own saves afterwards.

        Raises:
            CheckpointError: one is missing or damaged.
        """
        for file in sorted(self._files)[rank::ranks]:
            blocks = range(len(self._files[file]["crc32c"]))
            self._verified[file] = [self._fetch(file, block, block) for block in blocks]

    def tensor(self, name: str) -> torch.Tensor:
        """The whole tensor, in its shape."""
        shape = self.shapes[name]
        return self.read(name, "value", 0, int(np.prod(shape, dtype=np.int64))).reshape(shape)

    @property
    def _where(self) -> str:
        return f"{self._store.url}/{self._folder}"

    def _slices(self, name: str, key: str) -> list[dict[str, Any]]:
        if name not in self.manifest["tensors"]:
            problem = f"has no tensor {name!r}; it was saved by another model"
            raise CheckpointError(Fault(self._where, problem, "use the model and method of that run"))
        return [part for part in self.manifest["tensors"][name]["slices"] if part["key"] == key]

    def _floats(self, file: str, offset: int, count: int) -> NDArray[np.float32]:
        first, last = offset // BLOCK_BYTES, (offset + 4 * count - 1) // BLOCK_BYTES
        if file not in self._verified:
            data = self._blocks(file, first, last)
            return np.frombuffer(data, dtype="<f4", count=count, offset=offset - first * BLOCK_BYTES)
        parts = []
        for number in range(first, last + 1):
            begin = offset - number * BLOCK_BYTES
            parts.append(memoryview(self._verified[file][number])[max(begin, 0) : begin + 4 * count])
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), dtype="<f4")

    def _blocks(self, file: str, first: int, last: int) -> bytes:
        if last - first > 1:  # large tensors are read once; what neighbouring small ones share is worth keeping
            return self._fetch(file, first, last)
        wanted = (file, first, last)
        if wanted not in self._cache:
            self._cache[wanted] = self._fetch(*wanted)
            if len(self._cache) > _CACHED_READS:
                self._cache.popitem(last=False)
        return self._cache[wanted]

    def _fetch(self, file: str, first: int, last: int) -> bytes:
        size, sums = self._files[file]["size"], self._files[file]["crc32c"]
        start, end = first * BLOCK_BYTES, min((last + 1) * BLOCK_BYTES, size)

        def check(data: bytes) -> None:
            for block in range(first, last + 1):
                at = (block - first) * BLOCK_BYTES
                if google_crc32c.value(data[at : at + BLOCK_BYTES]) != sums[block]:
                    problem = f"block {block} disagrees with its CRC32C; it is damaged"
                    raise CheckpointError(Fault(f"{self._where}/{file}", problem))

        try:
            return read_verified(lambda: self._store.get(f"{self._folder}/{file}", start, end - start), check)
        except NotFound as error:
            fault = Fault(f"{self._where}/{file}", "is missing; the checkpoint is damaged")
            raise CheckpointError(fault) from error


def _manifest(store: Store, name: str, sha256: str) -> dict[str, Any]:
    where, otherwise = f"{store.url}/{name}", "an earlier checkpoint is taken where there is one"

    def check(data: bytes) -> None:
        if hashlib.sha256(data).hexdigest() != sha256:
            raise CheckpointError(Fault(where, "is not the manifest that was committed", otherwise))

    try:
        manifest: dict[str, Any] = json.loads(read_verified(lambda: store.get(name), check))
    except NotFound as error:
        raise CheckpointError(Fault(where, "is missing; the checkpoint is damaged", otherwise)) from error
    if manifest["version"] != VERSION:
        problem = f"has format version {manifest['version']}; this code reads {VERSION}"
        raise CheckpointError(Fault(where, problem, "use the version of gmml_cluster that saved it"))
    return manifest
