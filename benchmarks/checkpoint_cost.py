"""What saving and loading cost over the copies alone: `python -m benchmarks.checkpoint_cost`.

The state is as large as a small ViT's with its moments (300 MB in 296 tensors), in memory and on the local disk. What
training waits for in a save is compared with one `memcpy` of as many bytes; the first save of an attempt apart, as its
buffer is new. A load with its checksums is compared with `torch.load` of the same tensors and a copy of each.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.rows import Row, interleaved, markdown, ratio_of, write_json
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.checkpoints.save import HostBuffer, manifest_part, merge
from gmml_cluster.train.engines.slices import VALUE, Slice, fill

_TENSORS, _MOMENTS = 296, ("exp_avg", "exp_avg_sq")
_FOLDER, _FILE = "checkpoints/0", "rank-00000.safetensors"


def main() -> None:
    """Measure, print the rows, and write them with `--json`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--megabytes", type=int, default=300)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    slices = _state(given.megabytes * 10**6)
    rows = [*saving(slices, given.rounds), loading(slices, given.rounds)]
    print(markdown(rows))
    if given.json:
        write_json(rows, given.json)


def _state(size: int) -> list[Slice]:
    """Tensors of unequal sizes, as a ViT's are, with two moments each; together `size` bytes."""
    weights = np.random.default_rng(1).dirichlet(np.ones(_TENSORS))
    sizes = np.maximum(1, (weights * size / 4 / (1 + len(_MOMENTS))).astype(int)).tolist()
    keys = (VALUE, *_MOMENTS)
    return [Slice(f"t{k}", (n,), 0, {key: torch.randn(n) for key in keys}) for k, n in enumerate(sizes)]


def saving(slices: Sequence[Slice], rounds: int) -> list[Row]:
    """What training stands still for: the copy into the buffer, over one `memcpy` of as many bytes."""
    buffer = HostBuffer(slices)
    source, target = torch.randint(0, 255, (len(buffer.data),), dtype=torch.uint8), torch.zeros(len(buffer.data))
    target = target.to(torch.uint8)
    measures: dict[str, Callable[[], float]] = {
        "save": lambda: _seconds(lambda: buffer.copy(slices)),
        "first": lambda: _first_save(slices),
        "memcpy": lambda: _seconds(lambda: target.copy_(source)),
    }
    seconds = interleaved(measures, rounds)
    size = f"{len(buffer.data) / 1e6:.0f} MB in {len(slices)} tensors"
    names = {"save": f"save stall, {size}", "first": f"first save of an attempt, {size}"}
    return [
        Row(text, "memcpy", ratio_of(seconds[name], seconds["memcpy"]), at_most=1.2, unit="ms",
            value=1e3 * sorted(seconds[name])[rounds // 2])
        for name, text in names.items()
    ]  # fmt: skip


def _first_save(slices: Sequence[Slice]) -> float:
    buffer = HostBuffer(slices)  # made before the first step, so it is no part of the stall
    return _seconds(lambda: buffer.copy(slices))


def loading(slices: Sequence[Slice], rounds: int) -> Row:
    """A load that compares every checksum, over `torch.load` and a copy."""
    with tempfile.TemporaryDirectory() as folder:
        store, plain = PosixStore(folder), Path(folder) / "plain.pt"
        digest = _save(store, slices)
        torch.save({part.name: part.views for part in slices}, plain)
        measures = {
            "checked": lambda: _seconds(lambda: _load(store, digest, slices)),
            "plain": lambda: _seconds(lambda: _torch_load(plain, slices)),
        }
        seconds = interleaved(measures, rounds)
    return Row(
        "load, checksums compared",
        "torch.load and a copy",
        ratio_of(seconds["checked"], seconds["plain"]),
        at_most=1.0,
        unit="ms",
        value=1e3 * sorted(seconds["checked"])[rounds // 2],
    )


def _save(store: PosixStore, slices: Sequence[Slice]) -> str:
    buffer = HostBuffer(slices)
    buffer.copy(slices)
    store.put(f"{_FOLDER}/{_FILE}", buffer.data.data)
    manifest = json.dumps(merge([manifest_part(_FILE, buffer, slices)], {"step": 0})).encode()
    store.put(f"{_FOLDER}/manifest.json", manifest)
    return hashlib.sha256(manifest).hexdigest()


def _load(store: PosixStore, digest: str, slices: Sequence[Slice]) -> None:
    reader = CheckpointReader(store, _FOLDER, digest)
    reader.verify(rank=0, ranks=1)
    fill(slices, reader.read)


def _torch_load(path: Path, slices: Sequence[Slice]) -> None:
    loaded = torch.load(path, weights_only=True)
    for part in slices:
        for key, view in part.views.items():
            view.copy_(loaded[part.name][key])


def _seconds(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
