"""One vision transformer with timm's parameter names, and the switches in which methods' encoders differ.

Dims: B images, C channels, S side of an image, p side of a patch, N patches, T tokens of a sequence (the class
token, if there is one, and the patches held), D width, h heads, L blocks, K patches kept.
"""

from collections.abc import Sequence
from functools import cache, reduce
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gmml_cluster.models.relative import RelativePositionBias

EPS = 1e-6

Positions = Literal["learned", "sincos", "relative", "none"]


def attention_kernels(deterministic: bool) -> tuple[str, ...]:
    """What attention may be computed by on GPUs, the first that takes a call's type and mask first.

    Never cuDNN's: torch takes it by itself on some GPUs and shapes, and there are reports of NaN and of wrong gradients
    with it. The memory-efficient one has no deterministic backward.
    """
    return ("flash", "math") if deterministic else ("flash", "efficient", "math")


def pin_attention(deterministic: bool) -> None:
    """Allow `attention_kernels` and no others, whatever torch's heuristics say on another device or version."""
    kernels, switches = attention_kernels(deterministic), torch.backends.cuda
    switches.enable_flash_sdp("flash" in kernels)
    switches.enable_mem_efficient_sdp("efficient" in kernels)
    switches.enable_math_sdp("math" in kernels)
    switches.enable_cudnn_sdp("cudnn" in kernels)


class Attention(nn.Module):
    """Multi-head self-attention; rows of `qkv` are q, k, v, inside each head by head.

    Without `key_bias`, queries and values have biases of their own, as in BEiT: a key's would cancel in the softmax.
    """

    def __init__(self, width: int, heads: int, *, key_bias: bool = True) -> None:
        super().__init__()
        self.heads, self.key_bias = heads, key_bias
        self.qkv = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.q_bias = nn.Parameter(torch.zeros(width))
            self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x_BTD: Tensor, real_BT: Tensor | None = None, bias_BhTT: Tensor | None = None) -> Tensor:
        """Attend within each sequence, to the tokens for which `real_BT` is true; None: to all.

        `bias_BhTT` is added to the logits.
        """
        B, T, D = x_BTD.shape
        q_BhTd, k_BhTd, v_BhTd = self._qkv(x_BTD).view(B, T, 3, self.heads, D // self.heads).permute(2, 0, 3, 1, 4)
        mask_BhTT = None if real_BT is None else real_BT[:, None, None]
        if bias_BhTT is not None:
            bias_BhTT = bias_BhTT.to(q_BhTd.dtype)
            mask_BhTT = bias_BhTT if mask_BhTT is None else bias_BhTT.masked_fill(~mask_BhTT, -torch.inf)
        seen_BhTd = F.scaled_dot_product_attention(q_BhTd, k_BhTd, v_BhTd, attn_mask=mask_BhTT)
        return self.proj(seen_BhTd.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]

    def first_row(self, x_BTD: Tensor, bias_BhTT: Tensor | None = None) -> Tensor:
        """The weights (B, h, T) by which the first token attends to all, in the precision of the parameters."""
        B, T, D = x_BTD.shape
        with torch.autocast(x_BTD.device.type, enabled=False):
            q_BTD, k_BTD, _ = self._qkv(x_BTD.to(self.qkv.weight.dtype)).chunk(3, 2)
            q_Bh1d = q_BTD[:, :1].view(B, 1, self.heads, -1).transpose(1, 2)
            k_BhTd = k_BTD.reshape(B, T, self.heads, -1).transpose(1, 2)
            logits_BhT = (q_Bh1d @ k_BhTd.transpose(2, 3))[:, :, 0] * (D // self.heads) ** -0.5
            return F.softmax(logits_BhT if bias_BhTT is None else logits_BhT + bias_BhTT[:, :, 0], 2)

    def _qkv(self, x_BTD: Tensor) -> Tensor:
        if self.key_bias:
            return self.qkv(x_BTD)  # type: ignore[no-any-return]
        return F.linear(x_BTD, self.qkv.weight, torch.cat([self.q_bias, torch.zeros_like(self.q_bias), self.v_bias]))


class Mlp(nn.Module):
    """Two linear layers around an exact GELU."""

    def __init__(self, width: int, hidden: int, *, bias: bool = True) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden, bias=bias)
        self.fc2 = nn.Linear(hidden, width, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Transform each token by itself."""
        return self.fc2(F.gelu(self.fc1(x_BTD)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """A pre-norm transformer block; with `layer_scale`, branches are multiplied by the vectors `gamma_1`, `gamma_2`."""

    def __init__(
        self, width: int, heads: int, mlp_ratio: float = 4.0, *, key_bias: bool = True, layer_scale: bool = False
    ) -> None:
        super().__init__()
        self.layer_scale = layer_scale
        self.norm1 = nn.LayerNorm(width, eps=EPS)
        self.attn = Attention(width, heads, key_bias=key_bias)
        self.norm2 = nn.LayerNorm(width, eps=EPS)
        self.mlp = Mlp(width, int(width * mlp_ratio))
        if layer_scale:
            self.gamma_1 = nn.Parameter(torch.ones(width))
            self.gamma_2 = nn.Parameter(torch.ones(width))

    def forward(
        self,
        x_BTD: Tensor,
        drop_B2: Tensor | None = None,
        real_BT: Tensor | None = None,
        bias_BhTT: Tensor | None = None,
    ) -> Tensor:
        """Add attention, then MLP.

        Args:
            x_BTD: residual stream.
            drop_B2: factor of each image's two branches, 0 or 1 / (1 - rate); None drops nothing.
            real_BT: tokens that are attended to; the others only fill sequences up to one length. None: all.
            bias_BhTT: added to the logits of the attention; B may be 1.
        """
        x_BTD = x_BTD + self._scaled(self.attn(self.norm1(x_BTD), real_BT, bias_BhTT), 0, drop_B2)
        return x_BTD + self._scaled(self.mlp(self.norm2(x_BTD)), 1, drop_B2)

    def _scaled(self, branch_BTD: Tensor, number: int, drop_B2: Tensor | None) -> Tensor:
        if self.layer_scale:
            branch_BTD = (self.gamma_2 if number else self.gamma_1) * branch_BTD
        return branch_BTD if drop_B2 is None else drop_B2[:, number, None, None] * branch_BTD


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
    """Encoder; its class token, if it has one, is at index 0.

    `positions` are learned, MAE's fixed table, none, or one table of relative biases for all blocks (relative.py).

    Attributes:
        prefix_tokens: tokens before the patches: 1 with a class token, else 0.
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
        positions: Positions = "learned",
        class_token: bool = True,
        key_bias: bool = True,
        layer_scale: bool = False,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        assert class_token or positions != "relative", "the table of relative biases has rows for a class token"
        self.patch_size, self.checkpointing = patch_size, checkpointing
        self.grid, self.prefix_tokens = image_size // patch_size, int(class_token)
        self.patch_embed = PatchEmbed(width, patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None
        self.pos_embed: Tensor | None
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.zeros(1, self.prefix_tokens + self.grid**2, width))
        else:
            # not persistent: it follows from the job, so that checkpoints need not hold it
            table = sincos_positions(width, self.grid) if positions == "sincos" else None
            self.register_buffer(
                "pos_embed", None if table is None else table[:, 1 - self.prefix_tokens :], persistent=False
            )
        self.rel_pos_bias = RelativePositionBias(self.grid, heads) if positions == "relative" else None
        self.blocks = nn.ModuleList(
            Block(width, heads, mlp_ratio, key_bias=key_bias, layer_scale=layer_scale) for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width, eps=EPS)

    def forward(
        self,
        images_BCSS: Tensor,
        *,
        drop_BL2: Tensor | None = None,
        taps: Sequence[int] | None = None,
        keep_BK: Tensor | None = None,
        real_BK: Tensor | None = None,
        mask_BN: Tensor | None = None,
        mask_token: Tensor | None = None,
        normed: bool = True,
        joined: bool = False,
    ) -> Tensor:
        """Normed tokens, class token first.

        Args:
            images_BCSS: normalised images.
            drop_BL2: multipliers of the blocks' branches; None drops nothing.
            taps: blocks, counted from 1, whose outputs are averaged before the norm; None: the last alone.
            keep_BK: indices of the patches that enter the blocks; None keeps all.
            real_BK: which of those kept are attended to; the others fill sequences up to one length, and what comes
                out for them means nothing. None: all are.
            mask_BN: patches whose embedding `mask_token` replaces, before positions are added.
            mask_token: (1, 1, D).
            normed: whether the final norm is applied; a head that norms after pooling calls it itself.
            joined: whether the tapped blocks' tokens, each normed by itself, are joined instead of averaged.

        Returns:
            (B, `prefix_tokens` + K, D), or N instead of K where all are kept; where they are joined a D for each tap.
        """
        tapped = set(taps or [len(self.blocks)])
        x_BTD = self.embed(images_BCSS, keep_BK, mask_BN, mask_token)
        real_BT = None if real_BK is None else F.pad(real_BK, (self.prefix_tokens, 0), value=True)
        bias_BhTT = None if self.rel_pos_bias is None else self.rel_pos_bias(keep_BK)
        seen: list[Tensor] = []
        for number, block in enumerate(self.blocks, start=1):
            drop_B2 = None if drop_BL2 is None else drop_BL2[:, number - 1]
            x_BTD = run_block(block, x_BTD, drop_B2, self.checkpointing, real_BT, bias_BhTT)
            if number in tapped:
                seen.append(x_BTD)
        if joined:
            return torch.cat([self.norm(each_BTD) if normed else each_BTD for each_BTD in seen], -1)
        out_BTD = reduce(torch.add, seen) / len(seen)
        return self.norm(out_BTD) if normed else out_BTD

    def embed(
        self,
        images_BCSS: Tensor,
        keep_BK: Tensor | None = None,
        mask_BN: Tensor | None = None,
        mask_token: Tensor | None = None,
    ) -> Tensor:
        """What enters the first block: tokens with their positions, the class token first, if there is one."""
        x_BND = self.patch_embed(images_BCSS)
        if mask_BN is not None:
            assert mask_token is not None
            x_BND = torch.where(mask_BN[:, :, None], mask_token.to(x_BND.dtype), x_BND)
        table = None if self.pos_embed is None else self.pos_embed.to(self.patch_embed.proj.weight.dtype)
        if table is not None:
            x_BND = x_BND + table[:, self.prefix_tokens :]
        if keep_BK is not None:
            x_BND = x_BND.gather(1, keep_BK[:, :, None].expand(-1, -1, x_BND.shape[2]))
        if self.cls_token is None:
            return x_BND  # type: ignore[no-any-return]
        first_11D = self.cls_token if table is None else self.cls_token + table[:, :1]
        return torch.cat([first_11D.expand(x_BND.shape[0], -1, -1), x_BND], 1)


def run_block(
    block: nn.Module, x_BTD: Tensor, drop_B2: Tensor | None, checkpointing: bool, *context: Tensor | None
) -> Tensor:
    """Run a block; with `checkpointing` it keeps only its inputs for the backward pass and is computed again there.

    Args:
        block: called with `x_BTD`, `drop_B2` and `context`.
        context: further inputs, such as a memory that the block attends to.
    """
    if checkpointing and torch.is_grad_enabled():
        return checkpoint(block, x_BTD, drop_B2, *context, use_reentrant=False, preserve_rng_state=False)  # type: ignore[no-any-return]
    return block(x_BTD, drop_B2, *context)  # type: ignore[no-any-return]
