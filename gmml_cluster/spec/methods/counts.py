"""How much a method computes and holds for an image: parameters, FLOP, activations. Torch-free arithmetic.

Source: METHODS 0.4, 3.9 (parameters), 8.2 (FLOP), 8.6 (activations). 1 multiply-add is 2 FLOP; matrix products alone.

Dims: D width, L blocks, h heads, r MLP ratio, p side of a patch, N patches, T tokens.
"""

from dataclasses import dataclass
from typing import Literal, Protocol

Precision = Literal["fp32", "bf16"]
_VALUE_BYTES = {"fp32": 4, "bf16": 2}
BACKWARD = 2
"""FLOP of the backward pass over those of the forward pass."""


class Encoder(Protocol):
    """What counting needs of `gmml_cluster.spec.job.Model`."""

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


@dataclass(frozen=True)
class Stack:
    """Transformer blocks over one sequence."""

    blocks: int
    tokens: int
    """Tokens of the sequence, the class token included."""
    width: int
    heads: int
    mlp_ratio: float = 4.0

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
        """Of a forward pass: L (24 T D^2 + 4 T^2 D) at an MLP ratio of 4."""
        return self.blocks * (2 * self.tokens * self.matrix_values + 4 * self.tokens**2 * self.width)

    def activation_bytes(self, precision: Precision, *, checkpointing: bool) -> int:
        """Kept for the backward pass, with fused attention.

        Of a block and token: fp32 64 D + 16 + 4 h, autocast 36 D + 16 + 4 h (the residual stream stays fp32).
        Checkpointed, each block keeps its input, and one block is whole while it is computed again.
        """
        per_token = self._token_bytes(precision)
        if checkpointing:
            return self.blocks * self.tokens * 4 * self.width + self.tokens * per_token
        return self.blocks * self.tokens * per_token

    def _token_bytes(self, precision: Precision) -> int:
        values = 8 * self.width + 2 * int(self.width * self.mlp_ratio)
        in_fp32 = 2 * self.width if precision == "bf16" else 0
        return _VALUE_BYTES[precision] * (values + in_fp32) + 16 + 4 * self.heads

    def cast_bytes(self, precision: Precision) -> int:
        """Copies of the matrices in bf16 that autocast makes of fp32 weights: 24 D^2 bytes of a block."""
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

    @property
    def forward_flops(self) -> int:
        """Of all views of an image."""
        return self.views * (sum(stack.flops for stack in self.stacks) + self.other_flops)

    @property
    def step_flops(self) -> int:
        """Forward and backward of all views of an image; METHODS 8.1."""
        return (1 + BACKWARD) * self.forward_flops

    def activation_bytes(self, precision: Precision, *, checkpointing: bool) -> int:
        """Kept for the backward pass of an image, and its inputs: clean, corrupted and mask in fp32 (METHODS 8.7)."""
        inside = sum(stack.activation_bytes(precision, checkpointing=checkpointing) for stack in self.stacks)
        outside = self.other_values * _VALUE_BYTES[precision] + self.other_bytes
        return self.views * (inside + outside + 3 * 4 * self.input_values)

    def cast_bytes(self, precision: Precision) -> int:
        """Copies of weights that autocast makes."""
        return sum(stack.cast_bytes(precision) for stack in self.stacks)


def encoder_stack(encoder: Encoder, tokens: int) -> Stack:
    """The encoder's blocks over some tokens."""
    return Stack(encoder.depth, tokens, encoder.width, encoder.heads, encoder.mlp_ratio)


def encoder_parameters(encoder: Encoder, patches: int) -> int:
    """P = L (12 D^2 + 13 D) + (3 p^2 + 1) D + (N + 1) D + D + 2 D, learned positions included."""
    width, pixels = encoder.width, 3 * encoder.patch_size**2
    return encoder_stack(encoder, 1 + patches).parameters + width * (pixels + 1 + patches + 1 + 1 + 2)


def gmml_counts(encoder: Encoder, image_size: int, views: int) -> Counts:
    """Counts of GMML: an encoder over all tokens, and a head of three layers and a transposed convolution."""
    D, pixels, N = encoder.width, 3 * encoder.patch_size**2, (image_size // encoder.patch_size) ** 2
    return Counts(
        views=views,
        trained=encoder_parameters(encoder, N) + 3 * (D**2 + D) + pixels * D + 3,
        frozen=0,
        stacks=(encoder_stack(encoder, 1 + N),),
        other_flops=2 * N * pixels * D + 6 * N * D**2 + 2 * N * pixels * D,
        other_values=3 * pixels * N + (1 + N) * D + 7 * N * D,
        other_bytes=8 * (1 + N),
        input_values=pixels * N,
    )


def mae_counts(encoder: Encoder, image_size: int, *, kept: int, decoder: Stack) -> Counts:
    """Counts of MAE: an encoder over the kept tokens, a decoder over all of them, both with fixed positions."""
    D, d, pixels = encoder.width, decoder.width, 3 * encoder.patch_size**2
    N, v = decoder.tokens - 1, 1 + kept
    trained_encoder = encoder_parameters(encoder, N) - (1 + N) * D
    ends = (D * d + d) + d + 2 * d + (d * pixels + pixels)
    return Counts(
        views=1,
        trained=trained_encoder + decoder.parameters + ends,
        frozen=(1 + N) * (D + d),
        stacks=(encoder_stack(encoder, v), decoder),
        other_flops=2 * N * pixels * D + 2 * v * D * d + 2 * (1 + N) * d * pixels,
        other_values=3 * pixels * N + 2 * v * D + 2 * (1 + N) * d,
        other_bytes=8 * v + 8 * (1 + N),
        input_values=pixels * N,
    )
