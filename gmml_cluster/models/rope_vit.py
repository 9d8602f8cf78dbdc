"""The transformer of CAPI, with rotary positions and registers and without class token and biases; and its predictor.

Source: arXiv 2502.08769 and what its released code computes (docs/reference/methods.md).

Dims: B images, C channels, S side of an image, g side of the grid, N cells, R registers, K cells kept, T = R + K tokens
of a sequence, P queries, D width, h heads, d width of a head, L blocks.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, reduce

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.models.vit import Mlp, PatchEmbed, run_block

EPS = 1e-5
HIGHEST_FREQUENCY, FREQUENCY_RANGE = 7.0, 1e-4


@cache
def frequencies(head_width: int) -> Tensor:
    """float64 (d / 4,) on the CPU: turns over the side of an image, from 7 down to 7e-4."""
    quarter = head_width // 4
    exponents = torch.arange(quarter, dtype=torch.float64, device="cpu") / (quarter - 1)
    return HIGHEST_FREQUENCY * FREQUENCY_RANGE**exponents


@cache
def cell_coordinates(grid: int) -> Tensor:
    """float64 (N, 2) on the CPU: row and column of each cell, 0 to 1."""
    line = torch.arange(grid, dtype=torch.float64, device="cpu") / (grid - 1)
    return torch.stack([line.repeat_interleave(grid), line.repeat(grid)], 1)


@cache
def register_coordinates(registers: int) -> Tensor:
    """float64 (R, 2) on the CPU: a walk round the unit square, R / 4 registers a side."""
    side = torch.arange(registers // 4, dtype=torch.float64, device="cpu") / (registers // 4)
    zero, one = torch.zeros_like(side), torch.ones_like(side)
    walk = [(side, zero), (one, side), (1 - side, one), (zero, 1 - side)]
    return torch.cat([torch.stack(pair, 1) for pair in walk])


@dataclass(frozen=True)
class RopeShape:
    """What an encoder and its predictor have in common.

    Attributes:
        grid: cells of a side.
        registers: a multiple of 4.
        halves: see `rotate`.
    """

    width: int
    heads: int
    grid: int
    mlp_ratio: float
    registers: int
    halves: bool


class RotaryPositions(nn.Module):
    """Angles of cells and registers. Its tables follow from the job, so checkpoints need not hold them."""

    def __init__(self, shape: RopeShape) -> None:
        super().__init__()
        self.frequencies: Tensor
        self.cells: Tensor
        self.registers: Tensor
        self.register_buffer("frequencies", frequencies(shape.width // shape.heads), persistent=False)
        self.register_buffer("cells", cell_coordinates(shape.grid), persistent=False)
        self.register_buffer("registers", register_coordinates(shape.registers), persistent=False)

    def of_sequence(self, keep_BK: Tensor | None, dtype: torch.dtype) -> Tensor:
        """Cosines and sines of the registers and the cells kept, all cells where `keep_BK` is None.

        Registers walk round the box that holds the image's kept cells.

        Returns:
            (2, B or 1, 1, T, d).
        """
        cells_BK2 = self.cells[None] if keep_BK is None else self.cells[keep_BK]
        low_B12, high_B12 = cells_BK2.amin(1, keepdim=True), cells_BK2.amax(1, keepdim=True)
        registers_BR2 = low_B12 + self.registers * (high_B12 - low_B12)
        return self._angles(torch.cat([registers_BR2, cells_BK2], 1), dtype)

    def of_cells(self, index_BP: Tensor, dtype: torch.dtype) -> Tensor:
        """Cosines and sines of some cells (2, B, 1, P, d)."""
        return self._angles(self.cells[index_BP], dtype)

    def _angles(self, where_BT2: Tensor, dtype: torch.dtype) -> Tensor:
        turns_BT2q = where_BT2[..., None].to(dtype) * self.frequencies.to(dtype)
        # the quarters of a head: rows twice, then columns twice
        angles_B1Td = (2 * math.pi * turns_BT2q).repeat_interleave(2, 2).flatten(2)[:, None]
        return torch.stack([angles_B1Td.cos(), angles_B1Td.sin()])


def rotate(x_BhTd: Tensor, angles_2B1Td: Tensor, *, halves: bool) -> Tensor:
    """Apply rotary positions.

    With `halves` the row turns one half of a head and the column the other. Otherwise, as released, halves x' and x''
    become x' cos a - x'' sin a and x'' cos b + x' sin b, a of the row and b of the column: that is no rotation, but
    what the released weights were trained with.
    """
    first, second = x_BhTd.view(*x_BhTd.shape[:-1], 2 if halves else 1, 2, -1).unbind(-2)
    turned_BhTd = torch.stack([-second, first], -2).flatten(-3)
    return x_BhTd * angles_2B1Td[0] + turned_BhTd * angles_2B1Td[1]


class SelfAttention(nn.Module):
    """Attention within a sequence; rows of `qkv` are q, k, v, inside each head by head."""

    def __init__(self, shape: RopeShape) -> None:
        super().__init__()
        self.heads, self.halves, width = shape.heads, shape.halves, shape.width
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BTD: Tensor, angles_2B1Td: Tensor) -> Tensor:
        """Attend, positions by `angles_2B1Td`."""
        q_BhTd, k_BhTd, v_BhTd = self.qkv(x_BTD).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BhTd, k_BhTd = (rotate(part, angles_2B1Td, halves=self.halves) for part in (q_BhTd, k_BhTd))
        seen_BhTd = F.scaled_dot_product_attention(q_BhTd, k_BhTd, v_BhTd)
        return self.proj(seen_BhTd.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class CrossAttention(nn.Module):
    """Queries attend to a memory and never to each other; rows of `kv` are k, v."""

    def __init__(self, shape: RopeShape) -> None:
        super().__init__()
        self.heads, self.halves, width = shape.heads, shape.halves, shape.width
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.proj = nn.Linear(width, width, bias=False)

    def forward(self, x_BPD: Tensor, memory_BTD: Tensor, query_2B1Pd: Tensor, memory_2B1Td: Tensor) -> Tensor:
        """Attend, positions by `query_2B1Pd` and `memory_2B1Td`."""
        q_BhPd = self.q(x_BPD).unflatten(2, (self.heads, -1)).transpose(1, 2)
        k_BhTd, v_BhTd = self.kv(memory_BTD).unflatten(2, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q_BhPd = rotate(q_BhPd, query_2B1Pd, halves=self.halves)
        seen_BhPd = F.scaled_dot_product_attention(q_BhPd, rotate(k_BhTd, memory_2B1Td, halves=self.halves), v_BhTd)
        return self.proj(seen_BhPd.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


class RopeBlock(nn.Module):
    """A pre-norm block around either attention."""

    def __init__(self, shape: RopeShape, attn: nn.Module) -> None:
        super().__init__()
        self.norm1 = nn.RMSNorm(shape.width, eps=EPS)
        self.attn = attn
        self.norm2 = nn.RMSNorm(shape.width, eps=EPS)
        self.mlp = Mlp(shape.width, int(shape.width * shape.mlp_ratio), bias=False)

    def forward(self, x_BTD: Tensor, drop_B2: Tensor | None, *context: Tensor) -> Tensor:
        """Add attention, then MLP.

        Args:
            x_BTD: residual stream.
            drop_B2: factor of each image's two branches, 0 or 1 / (1 - rate); None drops nothing.
            context: what the attention takes beside the tokens.
        """
        attention, mlp = (1.0, 1.0) if drop_B2 is None else drop_B2.unsqueeze(-1).unsqueeze(-1).unbind(1)
        x_BTD = x_BTD + attention * self.attn(self.norm1(x_BTD), *context)
        return x_BTD + mlp * self.mlp(self.norm2(x_BTD))  # type: ignore[no-any-return]


class RopeEncoder(nn.Module):
    """Encoder whose first tokens are registers.

    Attributes:
        prefix_tokens: registers, before the tokens of the patches.
        cls_token: None; there is no class token.
        checkpointing: whether blocks are recomputed in the backward pass.
    """

    cls_token = None

    def __init__(self, shape: RopeShape, depth: int, *, patch_size: int, checkpointing: bool = False) -> None:
        super().__init__()
        self.patch_size, self.grid, self.checkpointing = patch_size, shape.grid, checkpointing
        self.prefix_tokens = shape.registers
        self.patch_embed = PatchEmbed(shape.width, patch_size)
        self.reg_token = nn.Parameter(torch.zeros(1, shape.registers, shape.width))
        self.positions = RotaryPositions(shape)
        self.blocks = nn.ModuleList(RopeBlock(shape, SelfAttention(shape)) for _ in range(depth))
        self.norm = nn.RMSNorm(shape.width, eps=EPS, elementwise_affine=False)

    def forward(
        self,
        images_BCSS: Tensor,
        *,
        drop_BL2: Tensor | None = None,
        taps: Sequence[int] | None = None,
        keep_BK: Tensor | None = None,
        normed: bool = True,
        joined: bool = False,
    ) -> Tensor:
        """Normed tokens (B, T, D), registers first.

        Args:
            images_BCSS: normalised images.
            drop_BL2: multipliers of the blocks' branches; None drops nothing.
            taps: blocks, counted from 1, whose outputs are averaged before the norm; None: the last alone.
            keep_BK: indices of the cells that enter the blocks; None keeps all.
            normed: whether the final norm is applied; a head that norms after pooling calls it itself.
            joined: whether the tapped blocks' tokens, each normed by itself, are joined instead of averaged.
        """
        tapped = set(taps or [len(self.blocks)])
        x_BND = self.patch_embed(images_BCSS)
        if keep_BK is not None:
            x_BND = x_BND.gather(1, keep_BK[:, :, None].expand(-1, -1, x_BND.shape[2]))
        # not len(), which would fix the number of images of an exported graph
        x_BTD = torch.cat([self.reg_token.expand(x_BND.shape[0], -1, -1), x_BND], 1)
        angles = self.positions.of_sequence(keep_BK, self.reg_token.dtype)
        seen: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            drop_B2 = None if drop_BL2 is None else drop_BL2[:, number - 1]
            x_BTD = run_block(block, x_BTD, drop_B2, self.checkpointing, angles)
            if number in tapped:
                seen.append(x_BTD)
        if joined:
            return torch.cat([self.norm(each_BTD) if normed else each_BTD for each_BTD in seen], -1)
        out_BTD = reduce(torch.add, seen) / len(seen)
        return self.norm(out_BTD) if normed else out_BTD


class RopePredictor(nn.Module):
    """Turns queries at cells into features, by attention to the encoder's tokens alone."""

    def __init__(self, shape: RopeShape, depth: int, *, checkpointing: bool = False) -> None:
        super().__init__()
        self.checkpointing = checkpointing
        self.positions = RotaryPositions(shape)
        self.blocks = nn.ModuleList(RopeBlock(shape, CrossAttention(shape)) for _ in range(depth))
        self.norm = nn.RMSNorm(shape.width, eps=EPS, elementwise_affine=False)

    def forward(
        self,
        mask_token: Tensor,
        memory_BTD: Tensor,
        keep_BK: Tensor,
        query_BP: Tensor,
        drop_BL2: Tensor | None = None,
        *,
        blocks: int | None = None,
        positions: RotaryPositions | None = None,
    ) -> Tensor:
        """Normed features (B, P, D).

        Args:
            mask_token: what each query begins as (1, 1, D).
            memory_BTD: tokens of the encoder, registers first.
            keep_BK: cells of the memory.
            query_BP: cells to predict.
            drop_BL2: multipliers of the blocks' branches; None drops nothing.
            blocks: how many of them the queries pass; None: all.
            positions: of an encoder for images of another size; None: those of training.
        """
        positions = positions or self.positions
        angles_of_queries = positions.of_cells(query_BP, mask_token.dtype)
        angles_of_memory = positions.of_sequence(keep_BK, mask_token.dtype)
        x_BPD = mask_token.expand(*query_BP.shape, -1)
        for number, block in enumerate(self.blocks[:blocks]):
            drop_B2 = None if drop_BL2 is None else drop_BL2[:, number]
            context = (memory_BTD, angles_of_queries, angles_of_memory)
            x_BPD = run_block(block, x_BPD, drop_B2, self.checkpointing, *context)
        return self.norm(x_BPD)  # type: ignore[no-any-return]
