"""One plain vision transformer with timm's parameter names.

Dims: B images, C channels, S side of an image, p side of a patch, N patches, T tokens of a sequence (a class token, if
there is one, and the patches held), D width, h heads, L blocks, K patches kept.
"""

from collections.abc import Sequence
from functools import cache, reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

EPS = 1e-6


def pin_attention() -> None:
    """Keep torch from choosing cuDNN's attention on GPUs; flash, memory-efficient and plain attention remain.

    torch takes it by itself on some GPUs and shapes, and there are reports of NaN and of wrong gradients with it. The
    others have, as torch documents them, a deterministic backward under `torch.use_deterministic_algorithms(True)`.
    """
    torch.backends.cuda.enable_cudnn_sdp(False)


class Attention(nn.Module):
    """Multi-head self-attention; rows of `qkv` are q, k, v, inside each head by head."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None) -> Tensor:
        """Attend within each sequence, to the tokens for which `real_BT` is true; None: to all."""
        B, T, D = x_BTD.shape
        q_BhTd, k_BhTd, v_BhTd = self.qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mask_B11T = None if real_BT is None else real_BT[:, None, None]
        seen_BhTd = F.scaled_dot_product_attention(q_BhTd, k_BhTd, v_BhTd, attn_mask=mask_B11T)
        return self.proj(seen_BhTd.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.fc2(F.gelu(self.fc1(x_BTD)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))

    def forward(self, x_BTD: Tensor, drop_B2: Tensor | None = None, real_BT: Tensor | None = None) -> Tensor:
        """Add attention, then MLP.

        Args:
            x_BTD: residual stream.
            drop_B2: factor of each image's two branches, 0 or 1 / (1 - rate); None drops nothing.
            real_BT: tokens that are attended to; the others only fill sequences up to one length. None: all.
        """
        if drop_B2 is None:
            x_BTD = x_BTD + self.attn(self.norm1(x_BTD), real_BT)
            return x_BTD + self.mlp(self.norm2(x_BTD))  # type: ignore[no-any-return]
        x_BTD = x_BTD + drop_B2[:, 0, None, None] * self.attn(self.norm1(x_BTD), real_BT)
        return x_BTD + drop_B2[:, 1, None, None] * self.mlp(self.norm2(x_BTD))  # type: ignore[no-any-return]


class PatchEmbed(nn.Module):
    """Linear projection of square patches, row by row."""

    def __init__(self, width: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, stride=patch_size)

    def forward(self, images_BCSS: Tensor) -> Tensor:
        """Tokens (B, N, D)."""
        return self.proj(images_BCSS).flatten(2).transpose(1, 2)  # type: ignore[no-any-return]


@cache
def sincos_positions(width: int, grid: int) -> Tensor:
    """Position table of MAE: the column's sines and cosines, then the row's; zeros for the class token.

    Source: the released code of arXiv 2111.06377, which has the column first.

    Returns:
        float64 (1, 1 + grid * grid, width) on the CPU.
    """
    positions = torch.arange(grid, dtype=torch.float64, device="cpu")
    frequencies = 10000.0 ** (-torch.arange(width // 4, dtype=torch.float64, device="cpu") / (width // 4))
    angles = positions[:, None] * frequencies
    code = torch.cat([angles.sin(), angles.cos()], 1)
    cells = torch.cat([code.repeat(grid, 1), code.repeat_interleave(grid, 0)], 1)
    return torch.cat([cells.new_zeros(1, width), cells])[None]


class VisionTransformer(nn.Module):
    """Encoder, as a rule with a class token at index 0.

    Attributes:
        prefix_tokens: tokens before those of the patches: 1, or 0 without a class token.
        checkpointing: whether blocks are recomputed in the backward pass.
    """

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        patch_size: int,
        image_size: int,
        mlp_ratio: float = 4.0,
        positions: Literal["learned", "sincos"] = "learned",
        class_token: bool = True,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.patch_size, self.checkpointing = patch_size, checkpointing
        self.grid = image_size // patch_size
        self.patch_embed = PatchEmbed(width, patch_size)
        self.prefix_tokens = int(class_token)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, self.prefix_tokens + self.grid**2, width))
        else:
            # not persistent: it follows from the job, so that checkpoints need not hold it
            table = sincos_positions(width, self.grid)[:, 1 - self.prefix_tokens :]
            self.register_buffer("pos_embed", table, persistent=False)
        self.blocks = nn.ModuleList(Block(width, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(
        self,
        images_BCSS: Tensor,
        *,
        drop_BL2: Tensor | None = None,
        taps: Sequence[int] | None = None,
        keep_BK: Tensor | None = None,
        real_BK: Tensor | None = None,
        normed: bool = True,
    ) -> Tensor:
        """Normed tokens, class token first.

        Args:
            images_BCSS: normalised images.
            drop_BL2: multipliers of the blocks' branches; None drops nothing.
            taps: blocks, counted from 1, whose outputs are averaged before the norm; None: the last alone.
            keep_BK: indices of the patches that enter the blocks; None keeps all.
            real_BK: which of those kept are attended to; the others fill sequences up to one length, and what comes
                out for them means nothing. None: all are.
            normed: whether the final norm is applied; a head that norms after pooling calls it itself.

        Returns:
            (B, `prefix_tokens` + K, D), or N instead of K where all are kept.
        """
        tapped = set(taps or [len(self.blocks)])
        x_BTD = self._embed(images_BCSS, keep_BK)
        real_BT = None if real_BK is None else F.pad(real_BK, (self.prefix_tokens, 0), value=True)
        context = () if real_BT is None else (real_BT,)
        seen: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            drop_B2 = None if drop_BL2 is None else drop_BL2[:, number - 1]
            x_BTD = run_block(block, x_BTD, drop_B2, self.checkpointing, *context)
            if number in tapped:
                seen.append(x_BTD)
        out_BTD = reduce(torch.add, seen) / len(seen)
        return self.norm(out_BTD) if normed else out_BTD

    def _embed(self, images_BCSS: Tensor, keep_BK: Tensor | None) -> Tensor:
        table = self.pos_embed.to(self.patch_embed.proj.weight.dtype)
        x_BND = self.patch_embed(images_BCSS) + table[:, self.prefix_tokens :]
        if keep_BK is not None:
            x_BND = x_BND.gather(1, keep_BK[:, :, None].expand(-1, -1, x_BND.shape[2]))
        if self.cls_token is None:
            return x_BND  # type: ignore[no-any-return]
        return torch.cat([(self.cls_token + table[:, :1]).expand(len(x_BND), -1, -1), x_BND], 1)


def run_block(block: nn.Module, x_BTD: Tensor, drop_B2: Tensor | None, checkpointing: bool, *context: Tensor) -> Tensor:
    """Run a block; with `checkpointing` it keeps only its inputs for the backward pass and is computed again there.

    Args:
        block: called with `x_BTD`, `drop_B2` and `context`.
        context: further inputs, such as a memory that the block attends to.
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x_BTD, drop_B2, *context, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
    return block(x_BTD, drop_B2, *context)  # type: ignore[no-any-return]
