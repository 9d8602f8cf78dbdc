"""Checkpoints: each rank writes the slices it owns as one safetensors file; a manifest lists the slices of all files.

A checkpoint exists once the log's `commit` names its manifest. Saving stalls the training for one copy into a host
buffer; writing, checksums and upload happen in a thread. There is no random state to save: draws are functions of
sample numbers.
"""

import hashlib
import json
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import google_crc32c
import numpy as np
import torch

from gmml_cluster.errors import StorageError
from gmml_cluster.run.folders import checkpoint_folder
from gmml_cluster.running_time import running_time
from gmml_cluster.store.protocol import Store
from gmml_cluster.train.engines.slices import Slice
from gmml_cluster.train.ranks.rendezvous import KeyValueStore, RankInfo

VERSION = 2
BLOCK_BYTES = 4 * 2**20
SAVE_S = 600.0  # a rank waits for the others' uploads; requests to a store are retried for 300 s
GIVE_UP_S = 1800.0
"""For as long training goes on while saves fail: what is freed or repaired until then costs no step."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredSlice:
    """Elements `start` to `start + numel` of the flattened tensor `name`, from byte `offset` of a file."""

    name: str
    key: str
    start: int
    numel: int
    offset: int


def safetensors_layout(slices: Sequence[Slice]) -> tuple[bytes, list[StoredSlice], int]:
    """Arrange slices in a safetensors file, one after the other.

    Returns:
        The file's head (length and header), where each slice is, and the file's size in bytes.
    """
    header: dict[str, Any] = {}
    stored: list[StoredSlice] = []
    end = 0
    for part in slices:
        for key, view in part.views.items():
            begin, end = end, end + 4 * view.numel()
            label = f"{part.name}|{key}|{part.start}"
            header[label] = {"dtype": "F32", "shape": [view.numel()], "data_offsets": [begin, end]}
            stored.append(StoredSlice(part.name, key, part.start, view.numel(), begin))
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format wants the data aligned, so that a file can be mapped as floats
    head = len(encoded).to_bytes(8, "little") + encoded
    return head, [replace(part, offset=part.offset + len(head)) for part in stored], len(head) + end


class HostBuffer:
    """A safetensors file in host memory, allocated once and pinned where the slices are on a GPU.

    Pinned, as a copy to pageable memory goes through a small staging buffer of the driver, at a fraction of the speed
    and with a wait for each tensor.
    """

    def __init__(self, slices: Sequence[Slice]) -> None:
        head, self.stored, size = safetensors_layout(slices)
        views = [view for part in slices for view in part.views.values()]
        self._cuda = any(view.is_cuda for view in views)
        self._bytes = torch.empty(size, dtype=torch.uint8, pin_memory=self._cuda)
        if not self._cuda:
            self._bytes.zero_()  # the kernel hands out pages at their first write, which would be in the first copy
        self._bytes[: len(head)] = torch.frombuffer(bytearray(head), dtype=torch.uint8)
        self._targets = [self._bytes[p.offset : p.offset + 4 * p.numel].view(torch.float32) for p in self.stored]

    def copy(self, slices: Sequence[Slice]) -> None:
        """Take the slices' present values; returns when they are in host memory.

        The copies are enqueued on the stream of the training step: behind the update whose result they read, and ahead
        of the next one, which overwrites it. On a stream of their own they would need an event on either side. The
        host waits once for all of them; from then on the bytes are its own, and any thread may read them.
        """
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
        parts: what `manifest_part` made on each rank.
        state: scalar state: `step`, `attempt`, `adam_step`, `skipped_steps`, `bad`, `unchecked`.
    """
    files: list[dict[str, Any]] = []
    tensors: dict[str, dict[str, Any]] = {}
    for part in parts:
        files.append({key: part[key] for key in ("file", "size", "crc32c")})
        for name, shape in part["shapes"].items():
            tensors.setdefault(name, {"shape": shape, "dtype": "F32", "slices": []})
        for name, key, start, numel, offset in part["slices"]:
            entry = {"key": key, "file": part["file"], "start": start, "numel": numel, "offset": offset}
            tensors[name]["slices"].append(entry)
    return {"version": VERSION, **state, "files": files, "tensors": tensors}


def manifest_part(file: str, buffer: HostBuffer, slices: Sequence[Slice]) -> dict[str, Any]:
    """One rank's part of the manifest."""
    return {
        "file": file,
        "size": len(buffer.data),
        "crc32c": checksums(buffer.data),
        "shapes": {part.name: list(part.shape) for part in slices},
        "slices": [[p.name, p.key, p.start, p.numel, p.offset] for p in buffer.stored],
    }


@dataclass(frozen=True)
class Saved:
    """A checkpoint whose files and manifest are written, ready to be committed."""

    step: int
    folder: str
    manifest_sha256: str
    size: int
    seconds: float
    spent: "Spent"


@dataclass(frozen=True)
class Spent:
    """Seconds since the save before, up to this one, that went into no step.

    Attributes:
        data_wait_s: the steps waited for images.
        stall_s: this save waited for the one in flight, and copied the state.
    """

    data_wait_s: float
    stall_s: float


@dataclass(frozen=True)
class _Outcome:
    """What rank 0 says of a save, and every rank acts on.

    Attributes:
        problem: why the checkpoint does not exist; empty where it is committed.
        final: whether saves have failed for so long that the attempt ends.
    """

    problem: str = ""
    final: bool = False


class Saver:
    """Saves the state in the background, one checkpoint at a time.

    A save that the store refuses, by a full disk say, ends nothing yet: a later one may succeed, and ending here would
    lose the steps since the last checkpoint for certain. The ranks learn from rank 0 that it failed, so that they
    agree; after half an hour of failures the attempt ends.

    The host buffer is allocated here, after the state was loaded: within the first save it made that stall training 2
    to 7 times as long as a later one.

    Args:
        store: the run root.
        kv: a connection for the saving thread alone, as a wait on a connection blocks its other users.
        rank_info: this rank.
        attempt: number of the attempt.
        slices: what this rank saves, always of the same shapes; called here and at each save.
        commit: rank 0's; called in the saving thread when all files and the manifest are written.
        waited_s: seconds that this attempt has waited for images, up to the last step read.

    Attributes:
        cost_s: rank 0's: seconds that the last save took; None before the first.
        failed: why the last save came to nothing; None where it is committed, or in flight.
    """

    cost_s: float | None = None
    failed: StorageError | None = None

    def __init__(
        self,
        store: Store,
        kv: KeyValueStore,
        rank_info: RankInfo,
        *,
        attempt: int,
        slices: Callable[[], Sequence[Slice]],
        commit: Callable[[Saved, dict[str, Any]], None],
        waited_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._store, self._kv, self._rank_info, self._attempt = store, kv, rank_info, attempt
        self._slices, self._commit, self._waited_s = slices, commit, waited_s
        self._waited_before_s = 0.0
        self._not_recorded = Spent(0.0, 0.0)
        self._failing_since: float | None = None
        self._buffer = HostBuffer(slices())
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._began = running_time()

    @property
    def busy(self) -> bool:
        """Whether a save is in flight."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def age_s(self) -> float:
        """Seconds since the last save began, or since the start."""
        return running_time() - self._began

    def check(self) -> None:
        """Raise the error that ends the attempt, of a save in the background."""
        if self._error is not None:
            raise self._error

    def begin(self, step: int, state: dict[str, Any]) -> None:
        """Copy the state of this rank and save it in the background; waits first for a save in flight.

        Raises:
            StorageError: saves have failed for half an hour.
        """
        stalling = running_time()
        self._join()
        slices = self._slices()
        self._buffer.copy(slices)  # the save before has read its bytes: `_join` waited for it
        self._began = running_time()
        waited_s, before = self._waited_s(), self._not_recorded
        spent = Spent(before.data_wait_s + waited_s - self._waited_before_s, before.stall_s + self._began - stalling)
        self._waited_before_s, self._not_recorded, self.failed = waited_s, Spent(0.0, 0.0), None
        arguments = (step, state, list(slices), self._began, spent)
        self._thread = threading.Thread(target=self._run, args=arguments, name="saving", daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait for the save in flight; returns once it is committed.

        Raises:
            StorageError: it is not: for those who need this very checkpoint no later one will do.
        """
        self._join()
        if self.failed is not None:
            raise self.failed

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def _run(self, step: int, state: dict[str, Any], slices: Sequence[Slice], began: float, spent: Spent) -> None:
        try:
            outcome = self._save(step, state, slices, began, spent)
            if outcome.problem:
                self._not_recorded = spent
                self._give_up(step, outcome)
        except BaseException as error:
            self._error = error  # raised in the training thread, by `check`, `begin` or `finish`

    def _give_up(self, step: int, outcome: _Outcome) -> None:
        error = StorageError(outcome.problem)
        if outcome.final:
            raise error
        self.failed = error
        _log.warning("step %d is not saved: %s; training goes on, and a later save may succeed", step, error)

    def _save(self, step: int, state: dict[str, Any], slices: Sequence[Slice], began: float, spent: Spent) -> _Outcome:
        folder = checkpoint_folder(step, self._attempt)
        file = f"rank-{self._rank_info.rank:05d}.safetensors"
        self._kv.set(f"save/{step}/{self._rank_info.rank}", self._write(folder, file, slices))
        if self._rank_info.rank != 0:
            # the other ranks learn by this that the commit is in the log: only then may they end or save again
            return _Outcome(**self._kv.wait(f"saved/{step}", timeout_s=SAVE_S))
        outcome = self._outcome(step, folder, state, began, spent)
        self._kv.set(f"saved/{step}", asdict(outcome))
        return outcome

    def _write(self, folder: str, file: str, slices: Sequence[Slice]) -> dict[str, Any]:
        """This rank's part of the manifest, or the problem that kept it from writing its file."""
        try:
            self._store.put(f"{folder}/{file}", self._buffer.data.data)
        except StorageError as error:
            return {"problem": str(error)}
        return manifest_part(file, self._buffer, slices)

    def _outcome(self, step: int, folder: str, state: dict[str, Any], began: float, spent: Spent) -> _Outcome:
        """Rank 0's: commits the checkpoint once all ranks have written their files."""
        full = {**state, "step": step, "attempt": self._attempt}
        try:
            parts = self._parts(step)
            manifest = json.dumps(merge(parts, full), separators=(",", ":")).encode()
            self._store.put(f"{folder}/manifest.json", manifest)
        except StorageError as error:
            self._clear(folder)
            return self._judged(error, began)
        size = len(manifest) + sum(part["size"] for part in parts)
        digest = hashlib.sha256(manifest).hexdigest()
        self.cost_s = running_time() - began
        try:
            self._commit(Saved(step, folder, digest, size, self.cost_s, spent), full)
        except StorageError as error:
            return self._judged(error, began)  # the entry may be in the log all the same, so the files stay
        self._failing_since = None
        return _Outcome()

    def _parts(self, step: int) -> list[dict[str, Any]]:
        """What each rank has written.

        Raises:
            StorageError: a rank could not write its file.
        """
        keys = [f"save/{step}/{rank}" for rank in range(self._rank_info.ranks)]
        parts = [self._kv.wait(key, timeout_s=SAVE_S) for key in keys]
        for key in keys:  # megabytes at many ranks, which the store would keep in rank 0's memory
            self._kv.delete(key)
        if problems := [part["problem"] for part in parts if "problem" in part]:
            raise StorageError(problems[0])
        return parts

    def _clear(self, folder: str) -> None:
        """Delete what was written of a checkpoint that will not be: on a full disk it is in the way of the next."""
        try:
            self._store.delete([found.name for found in self._store.list_objects(f"{folder}/")])
        except StorageError as error:
            _log.warning("%s; it is deleted after a later checkpoint", error)

    def _judged(self, error: StorageError, began: float) -> _Outcome:
        self._failing_since = self._failing_since or began
        return _Outcome(str(error), final=running_time() - self._failing_since > GIVE_UP_S)
