"""Checkpoints: each rank writes the slices it owns as one safetensors file; a manifest says what lies where.

A checkpoint exists when the log's `commit` names its manifest. Saving stalls the training for one copy into a host
buffer; writing, checksums and upload happen in a thread. Random state does not exist, so it is not saved.
"""

import hashlib
import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import torch

from gmml_cluster.run.history import checkpoint_folder
from gmml_cluster.store.protocol import Store
from gmml_cluster.train.engines.slices import Slice
from gmml_cluster.train.ranks.rendezvous import KeyValueStore, RankInfo

VERSION = 2
BLOCK_BYTES = 4 * 2**20
SAVE_S = 600.0


@dataclass(frozen=True)
class Piece:
    """One contiguous part of one tensor in a file: elements `start` to `start + numel` of `name`, at byte `offset`."""

    name: str
    key: str
    start: int
    numel: int
    offset: int


def layout(slices: Sequence[Slice]) -> tuple[bytes, list[Piece], int]:
    """Where the slices lie in a safetensors file.

    Returns:
        The file's head (length and header, a multiple of 8 bytes), the pieces, and the file's size in bytes.
    """
    entries: dict[str, Any] = {}
    pieces: list[Piece] = []
    end = 0
    for part in slices:
        for key, view in part.views.items():
            begin, end = end, end + 4 * view.numel()
            label = f"{part.name}|{key}|{part.start}"
            entries[label] = {"dtype": "F32", "shape": [view.numel()], "data_offsets": [begin, end]}
            pieces.append(Piece(part.name, key, part.start, view.numel(), begin))
    header = json.dumps(entries, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    head = len(header).to_bytes(8, "little") + header
    return head, [Piece(p.name, p.key, p.start, p.numel, p.offset + len(head)) for p in pieces], len(head) + end


class HostBuffer:
    """A safetensors file in host memory, allocated once and pinned where the slices lie on a GPU."""

    def __init__(self, slices: Sequence[Slice]) -> None:
        head, self.pieces, size = layout(slices)
        views = [view for part in slices for view in part.views.values()]
        self._cuda = any(view.is_cuda for view in views)
        self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)
        self._bytes[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._targets = [self._bytes[p.offset : p.offset + 4 * p.numel].view(torch.float32) for p in self.pieces]

    def copy(self, slices: Sequence[Slice]) -> None:
        """Take the slices' present values; returns when they are in host memory."""
        sources = [view for part in slices for view in part.views.values()]
        for target, source in zip(self._targets, sources, strict=True):
            target.copy_(source, non_blocking=True)
        if self._cuda:
            torch.cuda.current_stream().synchronize()

    @property
    def data(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """The file's bytes, without a copy."""
        array: np.ndarray[Any, np.dtype[np.uint8]] = self._bytes.numpy()
        return array


def checksums(data: np.ndarray[Any, np.dtype[np.uint8]]) -> list[int]:
    """CRC32C of each block of 4 MiB; the last may be shorter."""
    return [google_crc32c.value(data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]


def merge(parts: Iterable[dict[str, Any]], state: dict[str, Any]) -> dict[str, Any]:
    """The manifest of a checkpoint from the parts of its ranks.

    Args:
        parts: what `part_of` made on each rank.
        state: scalar state: `step`, `attempt`, `adam_step`, `skipped_steps`, `bad`, `unchecked`.
    """
    files: list[dict[str, Any]] = []
    tensors: dict[str, dict[str, Any]] = {}
    for part in parts:
        files.append({key: part[key] for key in ("file", "size", "crc32c")})
        for name, shape in part["shapes"].items():
            tensors.setdefault(name, {"shape": shape, "dtype": "F32", "slices": []})
        for name, key, start, numel, offset in part["pieces"]:
            entry = {"key": key, "file": part["file"], "start": start, "numel": numel, "offset": offset}
            tensors[name]["slices"].append(entry)
    return {"version": VERSION, **state, "files": files, "tensors": tensors}


def part_of(file: str, buffer: HostBuffer, slices: Sequence[Slice]) -> dict[str, Any]:
    """One rank's part of the manifest."""
    return {
        "file": file,
        "size": len(buffer.data),
        "crc32c": checksums(buffer.data),
        "shapes": {part.name: list(part.shape) for part in slices},
        "pieces": [[p.name, p.key, p.start, p.numel, p.offset] for p in buffer.pieces],
    }


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files and manifest stand, ready to be committed."""

    step: int
    folder: str
    manifest_sha256: str
    size: int
    seconds: float


class Saver:
    """Saves the state in the background, one checkpoint at a time.

    Args:
        store: the run root.
        board: a connection for the saving thread alone.
        slices: what this rank saves, always of the same shapes; called at each save.
        commit: rank 0's; called in the saving thread when all files and the manifest stand.

    Attributes:
        cost_s: rank 0's: seconds that the last save took; None before the first.
    """

    cost_s: float | None = None

    def __init__(
        self,
        store: Store,
        board: KeyValueStore,
        place: RankInfo,
        *,
        attempt: int,
        slices: Callable[[], Sequence[Slice]],
        commit: Callable[[Saved, dict[str, Any]], None],
    ) -> None:
        self._store, self._board, self._place, self._attempt = store, board, place, attempt
        self._slices, self._commit = slices, commit
        self._buffer: HostBuffer | None = None
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began = time.monotonic()

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def age_s(self) -> float:
        """Seconds since the last save began, or since the start."""
        return time.monotonic() - self._began

    def check(self) -> None:
        """Raise the error of a save that failed in the background."""
        if self._error is not None:
            raise self._error

    def begin(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state of this rank and save it in the background; waits first for a save in flight.

        Raises:
            StorageError: the save before failed.
        """
        self.finish()
        slices = self._slices()
        self._buffer = self._buffer or HostBuffer(slices)
        self._buffer.copy(slices)
        self._began = time.monotonic()
        arguments = (step, state, list(slices), self._began)
        self._thread = threading.Thread(target=self._run, args=arguments, name="saving", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the save in flight; on rank 0 it is then committed.

        Raises:
            StorageError: it failed.
        """
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, step: int, state: dict[str, Any], slices: Sequence[Slice], began: float) -> None:
        try:
            self._save(step, state, slices, began)
        except BaseException as error:
            self._error = error

    def _save(self, step: int, state: dict[str, Any], slices: Sequence[Slice], began: float) -> None:
        assert self._buffer is not None
        folder = checkpoint_folder(step, self._attempt)
        file = f"rank-{self._place.rank:05d}.safetensors"
        self._store.put(f"{folder}/{file}", self._buffer.data.data)
        self._board.set(f"save/{step}/{self._place.rank}", part_of(file, self._buffer, slices))
        if self._place.rank != 0:
            self._board.wait(f"saved/{step}", timeout_s=SAVE_S)
            return
        keys = [f"save/{step}/{rank}" for rank in range(self._place.ranks)]
        parts = [self._board.wait(key, timeout_s=SAVE_S) for key in keys]
        for key in keys:
            self._board.delete(key)
        full = {**state, "step": step, "attempt": self._attempt}
        manifest = json.dumps(merge(parts, full), separators=(",", ":")).encode()
        self._store.put(f"{folder}/manifest.json", manifest)
        size = len(manifest) + sum(part["size"] for part in parts)
        digest = hashlib.sha256(manifest).hexdigest()
        self.cost_s = time.monotonic() - began
        self._commit(Saved(step, folder, digest, size, self.cost_s), full)
        self._board.set(f"saved/{step}", True)
