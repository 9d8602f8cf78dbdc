"""The vector that all ranks sum once a step: its fields in one table, how a rank fills it, how the sum is read.

Every decision of the training loop (stop, save, skip, too many bad samples) is taken from the sum. The sum is equal on
all ranks, so they agree without another message.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.node_cache.cache import CacheFigures

# each field that is summed over ranks, and the type of its sum
_SHARED: dict[str, type[int] | type[float]] = {
    "loss": float,
    "notice": int,
    "cancelled": int,
    "save": int,
    "unchecked": int,
    "damaged": int,
    "reads_in_flight": float,
    "read_ahead_bytes": float,
    "retries": int,
}
_PER_RANK = ("data_wait_s", "step_s", "bad_sample", "own_s")


@dataclass(frozen=True)
class RankStats:
    """What the host of one rank adds to a step's sum.

    Attributes:
        notice: whether this rank was asked to save and leave.
        cancelled: whether this rank read a `stop` in the log.
        save: whether a save by time is due; only rank 0 keeps that clock.
        unchecked: samples that were read without a checksum.
        damaged: samples whose decoder named damage in them and gave an image all the same.
        reads_in_flight: reads of this rank that its store had not answered yet.
        read_ahead_bytes: bytes read and not decoded yet.
        retries: requests to stores that were sent again since the step before.
        data_wait_s: seconds waited for data.
        step_s: seconds since the step before was enqueued.
        own_s: seconds of this step before it first waited for other ranks: for data, and in the forward passes of the
            latest step of which that is known.
        bad_sample: number that `Limit.encode` gives one of the bad samples met; 0 where there was none.
        bad: number of bad samples met, of each corpus.
    """

    notice: bool
    cancelled: bool
    save: bool
    unchecked: int
    damaged: int
    reads_in_flight: float
    read_ahead_bytes: float
    retries: int
    data_wait_s: float
    step_s: float
    own_s: float
    bad_sample: int
    bad: Sequence[int]


@dataclass(frozen=True)
class StepStats:
    """A step's sums over all ranks.

    Attributes:
        squares: float64 (T,): sum of squares of each trained tensor's gradient before clipping.
        loss: sum of all groups' losses.
        notice: how many ranks were asked to save and leave; `cancelled` and `save` alike.
        unchecked: samples that were read without a checksum; `damaged`, `reads_in_flight`, `read_ahead_bytes` and
            `retries` are sums of `RankStats`' too.
        data_wait_s: of the rank that waited longest.
        step_s: of the slowest rank.
        bad_samples: `RankStats.bad_sample` of each rank, and `own_s` alike.
        bad: bad samples met, of each corpus.
        scalars: by name, (sum, count) of what the method reports.
        finite: whether every value is. Where it is false no rank has applied the update.
    """

    squares: NDArray[np.float64]
    loss: float
    notice: int
    cancelled: int
    save: int
    unchecked: int
    damaged: int
    reads_in_flight: float
    read_ahead_bytes: float
    retries: int
    data_wait_s: float
    step_s: float
    bad_samples: list[int]
    own_s: list[float]
    bad: list[int]
    scalars: dict[str, tuple[float, float]]
    finite: bool

    def first_not_finite(self, tensors: Sequence[str]) -> str:
        """What was not finite: the loss before gradients, for its gradients follow from it; then the first tensor.

        Args:
            tensors: names of the trained tensors, in the order of `squares`.
        """
        if not np.isfinite(self.loss):
            return "the loss"
        for name, square in zip(tensors, self.squares, strict=True):
            if not np.isfinite(square):
                return f"the gradient of {name}"
        return next((name for name, pair in self.scalars.items() if not np.isfinite(pair).all()), "")


class StepVector:
    """The vector's table of fields, behind the engine's T sums of squares:

    | field     | elements    | content                                                                   |
    |-----------|-------------|---------------------------------------------------------------------------|
    | shared    | 9           | `_SHARED`, each summed over ranks                                         |
    | per rank  | 4 per rank  | `_PER_RANK` of each rank in elements of its own, where others add zeros   |
    | bad       | 1 a corpus  | bad samples met                                                           |
    | scalars   | 2 a scalar  | sum and count, in the names' alphabetical order                           |

    The order of fields is part of exactness: gloo and NCCL reduce a vector in segments, so from three ranks up the last
    bit of a sum depends on where in the vector it lies.

    Attributes:
        scalars: names of the vector that was packed last. Those of a later step may be others, where a method
            begins to mask by maps, so a step's are kept until it is read.
    """

    def __init__(self, ranks: int, rank: int, corpora: int) -> None:
        self._ranks, self._rank, self._corpora = ranks, rank, corpora
        self.scalars: tuple[str, ...] = ()

    def pack(self, loss: Tensor, mine: RankStats, scalars: Mapping[str, Tensor]) -> Tensor:
        """This rank's part of the vector, without the sums of squares. Nothing here waits for the device.

        Args:
            loss: 0-d float64 on the device.
            mine: what the host knows.
            scalars: by name, float64 (2,) on the device; the same names on every rank.

        Returns:
            float64 (E,) on the device of `loss`.
        """
        self.scalars = tuple(sorted(scalars))
        per_rank = np.zeros((self._ranks, len(_PER_RANK)))
        per_rank[self._rank] = [getattr(mine, name) for name in _PER_RANK]
        shared = [getattr(mine, name) for name in _SHARED if name != "loss"]
        host = torch.tensor([*shared, *per_rank.flat, *mine.bad], dtype=torch.float64)
        return torch.cat([loss[None], host.to(loss.device, non_blocking=True), *(scalars[n] for n in self.scalars)])

    def unpack(self, values: NDArray[np.float64], scalars: Sequence[str]) -> StepStats:
        """Read the reduced vector, sums of squares included.

        Args:
            values: float64 (T + E,) on the host.
            scalars: what `scalars` was when it was packed.
        """
        sizes = [len(_SHARED), self._ranks * len(_PER_RANK), self._corpora, 2 * len(scalars)]
        bounds = np.cumsum([len(values) - sum(sizes), *sizes[:-1]])
        squares, shared, per_rank, bad, pairs = np.split(values, bounds)
        data_wait_s, step_s, bad_samples, own_s = per_rank.reshape(self._ranks, len(_PER_RANK)).T
        sums: dict[str, Any] = {name: _SHARED[name](value) for name, value in zip(_SHARED, shared, strict=True)}
        return StepStats(
            squares=squares,
            **sums,
            data_wait_s=float(data_wait_s.max()),
            step_s=float(step_s.max()),
            bad_samples=bad_samples.astype(int).tolist(),
            own_s=own_s.tolist(),
            bad=bad.astype(int).tolist(),
            scalars={name: (pair[0], pair[1]) for name, pair in zip(scalars, pairs.reshape(-1, 2), strict=True)},
            finite=bool(np.isfinite(values).all()),
        )


def cache_scalars(cache: CacheFigures, rank: int, device: torch.device) -> dict[str, Tensor]:
    """What a node's cache did, beside the method's scalars: so no field is moved where there is no cache.

    Returns:
        Float64 (2,) on the device, whose sums over ranks are divided: `cache_hits`, bytes found and bytes asked for;
        `cache_faults`, their number and 1.
    """
    asked = cache.hit_bytes + cache.missed_bytes
    pairs = torch.tensor([[cache.hit_bytes, asked], [cache.faults, rank == 0]], dtype=torch.float64)
    hits, faults = pairs.to(device, non_blocking=True)
    return {"cache_hits": hits, "cache_faults": faults}
