"""Moving many tensors towards others: target + weight * (source - target), by a weight that is on their device."""

from collections.abc import Sequence

import torch
from torch import Tensor


def lerp_each(targets: Sequence[Tensor], sources: Sequence[Tensor], weight: Tensor) -> None:
    """One tensor after the other, in one pass over its memory: for CPUs, where a launch costs nothing."""
    for target, source in zip(targets, sources, strict=True):
        target.lerp_(source, weight)


def lerp_together(targets: Sequence[Tensor], sources: Sequence[Tensor], weight: Tensor) -> None:
    """All tensors in three operations, each one launch for dozens of tensors; a copy of them is held meanwhile.

    torch's `_foreach_lerp_` takes the weight from the host, which would have to wait for it. Rounded once more than
    `lerp_`, so the last bit may differ; a weight of 0 keeps every bit.
    """
    away = torch._foreach_sub(list(sources), list(targets))
    torch._foreach_mul_(away, weight)
    torch._foreach_add_(list(targets), away)
