"""Sums over the groups of a batch."""

import torch
from torch import Tensor


def group_sums(values: Tensor, counted: Tensor, group: int) -> Tensor:
    """Sum of the counted values of each group, and their number.

    Args:
        values: (n, ...), images of whole groups.
        counted: bool of the same shape.
        group: images of a group.

    Returns:
        (n / group, 2).
    """
    pair = torch.stack([torch.where(counted, values, 0.0).flatten(1).sum(1), counted.flatten(1).sum(1)], 1)
    return pair.view(-1, group, 2).sum(1)
