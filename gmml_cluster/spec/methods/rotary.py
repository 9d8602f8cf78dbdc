"""Blocks with rotary positions, RMS norms and no biases, as the plan counts them; the blocks: `models/rope_vit.py`."""

from collections.abc import Iterator
from dataclasses import dataclass

from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.counts import Encoder, Precision, Stack

HEADS = ("model", "heads")


@dataclass(frozen=True)
class RotaryStack(Stack):
    """Blocks without biases, whose norms have a weight alone."""

    @property
    def parameters(self) -> int:
        """Values of all blocks: L (12 D^2 + 2 D) at an MLP ratio of 4."""
        return self.blocks * (self.matrix_values + 2 * self.width)

    @property
    def token_values(self) -> tuple[int, int]:
        """Values that a token keeps in a block, and how many of them stay fp32: inputs of norms, and what they norm.

        Beside the plain block's: q and k with their positions.
        """
        return 12 * self.width + 2 * int(self.width * self.mlp_ratio), 4 * self.width

    def _token_bytes(self, precision: Precision) -> int:
        values, in_fp32 = self.token_values
        return (
            (4 if precision == "fp32" else 2) * values
            + (2 * in_fp32 if precision == "bf16" else 0)
            + 8
            + 4 * self.heads
        )


def rotary_stack(encoder: Encoder, tokens: int) -> RotaryStack:
    """The encoder's blocks over a sequence of `tokens`."""
    return RotaryStack(encoder.depth, tokens, encoder.width, encoder.heads, encoder.mlp_ratio)


def rotary_positions_fit(encoder: Encoder, image_size: int) -> Iterator[Broken]:
    """What rotary positions ask of the heads and of the grid."""
    head = encoder.width // encoder.heads
    if head % 4 or head < 8:
        problem = f"{encoder.heads} heads are {head} wide; rotary positions take a multiple of 4, from 8 up"
        yield broken(HEADS, problem, "choose fewer heads or another width", METHOD, ("model", "width"))
    if image_size // encoder.patch_size < 2:
        problem = f"images of {image_size} are one patch; positions are relative to the image's other side"
        yield broken(IMAGE, problem, "take smaller patches or larger images", METHOD, PATCH)
