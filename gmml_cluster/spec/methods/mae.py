"""MAE without torch: its options, what an image costs, and its rules. The method itself: `gmml_cluster.methods.mae`.

Constants and formulas: docs/reference/methods.md.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.amt import MaeAmt, broken_roles, token_roles
from gmml_cluster.spec.methods.counts import (
    Counts,
    Encoder,
    Stack,
    divisor_of_width,
    encoder_parameters,
    encoder_stack,
)
from gmml_cluster.spec.methods.encoder_kind import EncoderKind

RATIO = ("method", "mask_ratio")
DROP_PATH = ("model", "drop_path")


class MaeOptions(SpecModel):
    """Masked autoencoder (arXiv 2111.06377)."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 8
    """The group where `data.group` is `auto`."""
    advised_drop_path: ClassVar[float] = 0.0
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "mae",
        "optim.lr": 1.5e-4,
        "optim.betas": [0.9, 0.95],
        "optim.weight_decay": {"start": 0.05, "end": 0.05},
        "optim.clip": None,
        "optim.schedule.law": "fractional",
        "optim.schedule.warmup": "40 epochs",
        "optim.schedule.final_lr": 0.0,
    }
    """Its authors' values where the fields' defaults are GMML's; a job file that leaves them out has these."""
    takes_auxiliary: ClassVar[bool] = True
    """Whether relations of patches can be learned beside it."""
    name: Literal["mae"]
    """Selects the method."""
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    """Share of tokens removed before the encoder."""
    decoder_width: int = Field(512, gt=0, le=10**6, multiple_of=4)
    """Width of the decoder."""
    decoder_depth: int = Field(8, gt=0, le=1000)
    """Blocks of the decoder."""
    decoder_heads: int = Field(16, gt=0)
    """Heads of the decoder; they divide its width."""
    standardise: bool = True
    """Whether each patch of the target is brought to mean 0 and (unbiased) variance 1."""
    amt: MaeAmt = None
    """Masks that follow attention, and tokens thrown away (AMT); true takes the values below."""

    @field_validator("decoder_heads")
    @classmethod
    def _divides_width(cls, heads: int, others: ValidationInfo) -> int:
        return divisor_of_width(heads, others.data.get("decoder_width"))

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    @property
    def encoder_kind(self) -> EncoderKind:
        """With MAE's fixed positions."""
        return EncoderKind(positions="sincos")

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs: an encoder over the kept tokens, a decoder over all; both have fixed positions.

        With AMT the decoder, too, sees fewer tokens later.

        Dims: D width of the encoder, d of the decoder, N patches, v tokens that the encoder sees.
        """
        N = (image_size // encoder.patch_size) ** 2
        first = self._counts(encoder, N, visible=kept_patches(self, N), decoded=N)
        if self.amt is None:
            return first
        roles = token_roles(self.amt, N)
        return replace(first, later=self._counts(encoder, N, visible=roles.visible, decoded=roles.held))

    def _counts(self, encoder: Encoder, N: int, *, visible: int, decoded: int) -> Counts:
        decoder = Stack(self.decoder_depth, 1 + decoded, self.decoder_width, self.decoder_heads)
        D, d, pixels, v = encoder.width, decoder.width, 3 * encoder.patch_size**2, 1 + visible
        trained_encoder = encoder_parameters(encoder, N) - (1 + N) * D
        ends = (D * d + d) + d + 2 * d + (d * pixels + pixels)
        return Counts(
            views=1,
            trained=trained_encoder + decoder.parameters + ends,
            frozen=(1 + N) * (D + d),
            stacks=(encoder_stack(encoder, v), decoder),
            other_flops=2 * N * pixels * D + 2 * v * D * d + 2 * (1 + decoded) * d * pixels,
            other_values=3 * pixels * N + 2 * v * D + 2 * (1 + decoded) * d,
            other_bytes=8 * v + 8 * (1 + decoded),
            input_values=pixels * N,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model and the image size."""
        patches = (image_size // encoder.patch_size) ** 2
        kept = kept_patches(self, patches)
        if not 0 < kept < patches:
            figures = f"a mask_ratio of {self.mask_ratio} keeps {kept} of {patches} patches"
            problem = f"{figures}; some are kept and some removed"
            blamed = RATIO if "mask_ratio" in self.model_fields_set else IMAGE
            yield broken(blamed, problem, "choose another mask_ratio, or more patches", METHOD, RATIO, IMAGE, PATCH)
        if self.amt is not None:
            yield from broken_roles(self.amt, token_roles(self.amt, patches), "patches")
        if encoder.drop_path:
            problem = f"{encoder.drop_path} does not fit; MAE drops no blocks"
            yield broken(DROP_PATH, problem, "write 0 or leave it out", METHOD)


def kept_patches(options: MaeOptions, patches: int) -> int:
    """Patches that the encoder sees: truncated in floating point, as the released code does."""
    return int(patches * (1 - options.mask_ratio))
