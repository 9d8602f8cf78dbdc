"""One table of relative position biases that all blocks share, as in ConMIM and SimMIM (docs/reference/methods.md).

Dims: B images, g side of the grid, N patches, T = 1 + N tokens, h heads, K patches kept.
"""

from functools import cache

import torch
from torch import Tensor, nn


def table_rows(grid: int) -> int:
    """Rows of the table: each difference of two places, and three for the class token."""
    return (2 * grid - 1) ** 2 + 3


@cache
def relative_rows(grid: int) -> Tensor:
    """Row of the table for each pair of query and key, class token first.

    Query (r, c) and key (r', c') have row (r - r' + g - 1) (2 g - 1) + (c - c' + g - 1). The last three rows are of the
    class token's queries, of its keys, and of itself.

    Returns:
        int64 (T, T) on the CPU.
    """
    places = torch.arange(grid, device="cpu")
    row_N, column_N = places.repeat_interleave(grid), places.repeat(grid)
    down_NN = row_N[:, None] - row_N + grid - 1
    right_NN = column_N[:, None] - column_N + grid - 1
    rows_TT = torch.empty(1 + grid**2, 1 + grid**2, dtype=torch.int64, device="cpu")
    rows_TT[1:, 1:] = down_NN * (2 * grid - 1) + right_NN
    last = table_rows(grid)
    rows_TT[0, :], rows_TT[:, 0], rows_TT[0, 0] = last - 3, last - 2, last - 1
    return rows_TT


class RelativePositionBias(nn.Module):
    """What is added to the logits of the attention of every block."""

    def __init__(self, grid: int, heads: int) -> None:
        super().__init__()
        self.relative_position_bias_table = nn.Parameter(torch.zeros(table_rows(grid), heads))
        self.rows_TT: Tensor
        # not persistent: it follows from the job
        self.register_buffer("rows_TT", relative_rows(grid), persistent=False)

    def forward(self, keep_BK: Tensor | None = None) -> Tensor:
        """Biases (1, h, T, T), or (B, h, 1 + K, 1 + K) of the patches that are kept, by their true places."""
        table_Rh = self.relative_position_bias_table
        if keep_BK is None:
            return table_Rh[self.rows_TT].permute(2, 0, 1)[None]
        token_BK = torch.cat([torch.zeros_like(keep_BK[:, :1]), keep_BK + 1], 1)
        rows_BKK = self.rows_TT[token_BK[:, :, None], token_BK[:, None, :]]
        return table_Rh[rows_BKK].permute(0, 3, 1, 2)
