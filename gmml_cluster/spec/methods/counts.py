"""Arithmetic that methods share for the plan: parameters, FLOP and bytes of activations of an image, without torch.

1 multiply-add is 2 FLOP; matrix products alone are counted. Derivation: docs/reference/methods.md.

Dims: D width, L blocks, h heads, r MLP ratio, p side of a patch, N patches, T tokens.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Literal, Protocol

from gmml_cluster.spec.base import Refused

Precision = Literal["fp32", "bf16"]
_VALUE_BYTES = {"fp32": 4, "bf16": 2}
BACKWARD = 2
"""FLOP of the backward pass over those of the forward pass."""


class Encoder(Protocol):
    """What methods ask of `gmml_cluster.spec.job.Model`."""

    @property
    def width(self) -> int: ...
    @property
    def depth(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def patch_size(self) -> int: ...
    @property
    def mlp_ratio(self) -> float: ...
    @property
    def drop_path(self) -> float | None: ...


def divisor_of_width(heads: int, width: int | None) -> int:
    """The number of heads, if it divides the width.

    Raises:
        Refused: it does not.
    """
    if width is not None and width % heads:
        raise Refused(f"{heads} heads do not divide the width of {width}", "choose a divisor")
    return heads


@dataclass(frozen=True)
class Stack:
    """Transformer blocks over one sequence."""

    blocks: int
    tokens: int
    """Tokens of the sequence, the class token included."""
    width: int
    heads: int
    mlp_ratio: float = 4.0
    layer_scale: bool = False

    @property
    def matrix_values(self) -> int:
        """Values of a block's four matrices: 12 D^2 at an MLP ratio of 4."""
        return 4 * self.width**2 + 2 * self.width * int(self.width * self.mlp_ratio)

    @property
    def parameters(self) -> int:
        """Values of all blocks: L (12 D^2 + 13 D) at an MLP ratio of 4."""
        vectors = 9 * self.width + int(self.width * self.mlp_ratio)
        return self.blocks * (self.matrix_values + vectors)

    @property
    def flops(self) -> int:
        """FLOP of a forward pass: L (24 T D^2 + 4 T^2 D) at an MLP ratio of 4."""
        return self.blocks * (2 * self.tokens * self.matrix_values + 4 * self.tokens**2 * self.width)

    def activation_bytes(self, precision: Precision, *, checkpointing: bool) -> int:
        """Bytes kept for the backward pass, with fused attention.

        A block keeps for each token 64 D + 16 + 4 h bytes in fp32, 36 D + 16 + 4 h under autocast (the residual stream
        stays fp32); with layer scale also its two branches before they are scaled. With checkpointing each block keeps
        its input, and one block is whole while it is computed again.
        """
        per_token = self._token_bytes(precision)
        if checkpointing:
            return self.blocks * self.tokens * 4 * self.width + self.tokens * per_token
        return self.blocks * self.tokens * per_token

    def _token_bytes(self, precision: Precision) -> int:
        values = (8 + 2 * self.layer_scale) * self.width + 2 * int(self.width * self.mlp_ratio)
        in_fp32 = 2 * self.width if precision == "bf16" else 0
        return _VALUE_BYTES[precision] * (values + in_fp32) + 16 + 4 * self.heads

    def cast_bytes(self, precision: Precision) -> int:
        """Bytes of the bf16 copies that autocast makes of the matrices: 24 D^2 a block."""
        return 2 * self.blocks * self.matrix_values if precision == "bf16" else 0


@dataclass(frozen=True)
class Counts:
    """What an image costs under a method."""

    views: int
    """Crops an image."""
    trained: int
    """Values that are trained."""
    frozen: int
    """Values that are held but not trained."""
    stacks: tuple[Stack, ...]
    """Blocks that each view passes."""
    other_flops: int
    """FLOP of a forward pass of one view outside the stacks."""
    other_values: int
    """Values of activations kept of one view outside the stacks."""
    other_bytes: int
    """Bytes kept of one view outside the stacks whatever the precision: statistics of norms, in fp32."""
    input_values: int
    """Values of one view: 3 S^2."""
    teacher_flops: int = 0
    """FLOP of one view in what is frozen, a teacher or a probed encoder, which has a forward pass alone."""
    later: "Counts | None" = None
    """What an image costs later in the run, once AMT throws tokens away."""

    @property
    def forward_flops(self) -> int:
        """FLOP of a forward pass of all views of an image, in what is trained and what is frozen."""
        return self._trained_flops + self.views * self.teacher_flops

    @property
    def step_flops(self) -> int:
        """FLOP of forward and backward of all views of an image."""
        return self.forward_flops + BACKWARD * self._trained_flops

    @property
    def _trained_flops(self) -> int:
        return self.views * (sum(stack.flops for stack in self.stacks) + self.other_flops)

    def activation_bytes(self, precision: Precision, *, checkpointing: bool) -> int:
        """Bytes that an image keeps for the backward pass, and its inputs: clean, corrupted and mask in fp32.

        Where the cost changes within the run, the most.
        """
        inside = sum(stack.activation_bytes(precision, checkpointing=checkpointing) for stack in self.stacks)
        outside = self.other_values * _VALUE_BYTES[precision] + self.other_bytes
        first = self.views * (inside + outside + 3 * 4 * self.input_values)
        if self.later is None:
            return first
        return max(first, self.later.activation_bytes(precision, checkpointing=checkpointing))

    def cast_bytes(self, precision: Precision) -> int:
        """Bytes of the bf16 copies of weights that autocast makes."""
        return sum(stack.cast_bytes(precision) for stack in self.stacks)


def encoder_stack(encoder: Encoder, tokens: int, *, layer_scale: bool = False) -> Stack:
    """The encoder's blocks over a sequence of `tokens`."""
    return Stack(encoder.depth, tokens, encoder.width, encoder.heads, encoder.mlp_ratio, layer_scale)


def encoder_parameters(
    encoder: Encoder,
    patches: int,
    *,
    positions: Literal["learned", "relative", "none"] = "learned",
    class_token: bool = True,
    key_bias: bool = True,
    layer_scale: bool = False,
) -> int:
    """Trained values, P = L (12 D^2 + 13 D) + (3 p^2 + 1) D + (N + 1) D + D + 2 D for a plain encoder.

    The switches are those of `gmml_cluster.models.vit.VisionTransformer`; fixed positions count as `none`.
    """
    width, pixels = encoder.width, 3 * encoder.patch_size**2
    blocks = encoder_stack(encoder, patches).parameters + encoder.depth * width * (2 * layer_scale - (not key_bias))
    tables = {
        "learned": (class_token + patches) * width,
        "relative": ((2 * isqrt(patches) - 1) ** 2 + 3) * encoder.heads,
        "none": 0,
    }
    return blocks + tables[positions] + width * (pixels + 1 + class_token + 2)
