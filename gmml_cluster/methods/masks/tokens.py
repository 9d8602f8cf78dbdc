"""Uniform tokens: a fixed number of patches is kept, uniformly at random.

The grid is that of the patches; its shape does not matter.

Source: arXiv 2111.06377; words of purpose 32: docs/reference/draws.md.

Dims: n images, N patches, K patches kept.
"""

import torch
from torch import Tensor

from gmml_cluster.methods.drawing import token_order


def kept_tokens(seed: int, numbers: Tensor, *, patches: int, kept: int) -> tuple[Tensor, Tensor]:
    """Mask (n, N), true for what is removed, and the patches kept (n, K), ascending: the first K of a random order.

    Args:
        seed: of the run.
        numbers: sample numbers.
        patches: N.
        kept: K.
    """
    order_nN = token_order(seed, numbers, patches)
    keep_nK = order_nN[:, :kept].sort(1).values
    return torch.ones_like(order_nN, dtype=torch.bool).scatter_(1, keep_nK, False), keep_nK
