"""Which kind of encoder a method trains and yields, without torch: what is built of it, compared, counted and written.

A method's options say theirs as `encoder_kind`, which both sides of the torch line read.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

from gmml_cluster.spec.broken import Broken
from gmml_cluster.spec.methods.counts import Encoder, Stack, encoder_parameters, encoder_stack
from gmml_cluster.spec.methods.rotary import rotary_positions_fit, rotary_stack

Positions = Literal["learned", "sincos", "relative", "none"]


class Switches(TypedDict):
    """Switches of `gmml_cluster.models.vit.VisionTransformer`."""

    positions: Positions
    class_token: bool
    key_bias: bool
    layer_scale: bool


@dataclass(frozen=True)
class Rotary:
    """The blocks of `gmml_cluster.models.rope_vit`.

    Attributes:
        registers: tokens before the patches; a multiple of 4.
        halves: whether row and column turn a half of a head each.
    """

    registers: int
    halves: bool


@dataclass(frozen=True)
class EncoderKind:
    """In what encoders of one size differ.

    Attributes:
        rotary: with it the blocks are of `models/rope_vit.py`, which has none of the other switches; None: of
            `models/vit.py`.
    """

    positions: Positions = "learned"
    class_token: bool = True
    key_bias: bool = True
    layer_scale: bool = False
    rotary: Rotary | None = None

    @property
    def switches(self) -> Switches:
        """Those of the encoder in `models/vit.py`."""
        return {
            "positions": self.positions,
            "class_token": self.class_token,
            "key_bias": self.key_bias,
            "layer_scale": self.layer_scale,
        }

    @property
    def has_class_token(self) -> bool:
        """Whether the first token is the image's."""
        return self.class_token and self.rotary is None

    @property
    def prefix_tokens(self) -> int:
        """Tokens before those of the patches."""
        return int(self.class_token) if self.rotary is None else self.rotary.registers

    def parameters(self, encoder: Encoder, patches: int) -> int:
        """Trained values of such an encoder."""
        if self.rotary is not None:
            outside = 3 * encoder.patch_size**2 + 1 + self.rotary.registers
            return rotary_stack(encoder, patches).parameters + outside * encoder.width
        return encoder_parameters(
            encoder,
            patches,
            positions="none" if self.positions == "sincos" else self.positions,
            class_token=self.class_token,
            key_bias=self.key_bias,
            layer_scale=self.layer_scale,
        )

    def stack(self, encoder: Encoder, patches: int) -> Stack:
        """Its blocks over whole images."""
        tokens = self.prefix_tokens + patches
        if self.rotary is not None:
            return rotary_stack(encoder, tokens)
        return encoder_stack(encoder, tokens, layer_scale=self.layer_scale)

    def broken_rules(self, encoder: Encoder, image_size: int) -> Iterator[Broken]:
        """What such an encoder asks of the model and the image size."""
        if self.rotary is not None:
            yield from rotary_positions_fit(encoder, image_size)

    @property
    def written(self) -> dict[str, Any]:
        """What a classifier's `encoder` says of it, without what goes without saying; empty for a plain one.

        Fixed positions count as learned, as a classifier trains them on.
        """
        if self.rotary is not None:
            rope = "halves" if self.rotary.halves else "coupled"
            return {"rotary": {"registers": self.rotary.registers, "rope": rope}}
        positions = "learned" if self.positions == "sincos" else self.positions
        plain: Mapping[str, Any] = EncoderKind().switches
        ours = {**self.switches, "positions": positions}
        return {name: value for name, value in ours.items() if value != plain[name]}


RELATIVE = EncoderKind(positions="relative", key_bias=False, layer_scale=True)
"""BEiT's, of SimMIM and ConMIM."""


def kind_of(options: object) -> EncoderKind | None:
    """The kind that a method's options say; None where a plug-in's say nothing."""
    kind = getattr(options, "encoder_kind", None)
    return kind if isinstance(kind, EncoderKind) else None
