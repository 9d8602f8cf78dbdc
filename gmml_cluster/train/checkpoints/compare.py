"""Two checkpoints, tensor by tensor: `python -m gmml_cluster.train.checkpoints.compare` prints what differs, as JSON.

A process of its own, as what starts a replay never imports torch.
"""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import google_crc32c
import numpy as np
import torch

from gmml_cluster.store.open import open_store
from gmml_cluster.train.checkpoints.read import CheckpointReader

_STATE = ("adam_step", "skipped_steps", "skips_in_a_row", "bad")
"""What a manifest holds of the state beside tensors; `unchecked` depends on how far background checksums have come."""


def compare(one: CheckpointReader, other: CheckpointReader) -> dict[str, Any]:
    """What differs between two checkpoints, to the bit.

    Returns:
        `tensors`: how many were compared, moments counted by themselves; `differing`: how many differ; `first`: the
        first that does (`tensor`, `key`, both `crc32c`, `elements` that differ, `greatest` absolute difference), in the
        order of the checkpoint; `state`: field -> both values of what differs beside tensors; `missing`: names that
        only one has.
    """
    names = [_names(one), _names(other)]
    found: list[dict[str, Any]] = []
    common = [name for name in names[0] if name in set(names[1])]
    for name, key in common:
        difference = _difference(one, other, name, key)
        if difference is not None:
            found.append({"tensor": name, "key": key, **difference})
    return {
        "tensors": len(common),
        "differing": len(found),
        "first": found[0] if found else None,
        "state": {
            field: [one.manifest.get(field), other.manifest.get(field)]
            for field in _STATE
            if one.manifest.get(field) != other.manifest.get(field)
        },
        "missing": [f"{name} ({key})" for name, key in sorted(set(names[0]) ^ set(names[1]))],
    }


def _names(reader: CheckpointReader) -> list[tuple[str, str]]:
    """Tensor and key (value or moment), values first: a moment that differs says less."""
    pairs = {
        (name, part["key"]): None for name, tensor in reader.manifest["tensors"].items() for part in tensor["slices"]
    }
    return sorted(pairs, key=lambda pair: pair[1] != "value")


def _difference(one: CheckpointReader, other: CheckpointReader, name: str, key: str) -> dict[str, Any] | None:
    shapes = one.shapes[name], other.shapes[name]
    if shapes[0] != shapes[1]:
        return {"shapes": [list(shape) for shape in shapes]}
    numel = int(np.prod(shapes[0], dtype=np.int64))
    mine, theirs = (reader.read(name, key, 0, numel) for reader in (one, other))
    bits = mine.view(torch.int32) != theirs.view(torch.int32)  # as numbers, NaN differs from itself and 0 equals -0
    if not bits.any():
        return None
    return {
        "crc32c": [google_crc32c.value(values.numpy().tobytes()) for values in (mine, theirs)],
        "elements": int(bits.sum()),
        "greatest": float((mine.double() - theirs.double()).abs().nan_to_num(posinf=0.0).max()),
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare two checkpoints, each named by its run's URL, its folder there and the digest of its manifest."""
    parser = argparse.ArgumentParser(prog="python -m gmml_cluster.train.checkpoints.compare", description=__doc__)
    for name in ("one", "other"):
        parser.add_argument(f"--{name}", nargs=3, required=True, metavar=("URL", "FOLDER", "SHA256"))
    given = parser.parse_args(arguments)
    readers = [CheckpointReader(open_store(url), folder, sha256) for url, folder, sha256 in (given.one, given.other)]
    print(json.dumps(compare(*readers)))


if __name__ == "__main__":
    main()
