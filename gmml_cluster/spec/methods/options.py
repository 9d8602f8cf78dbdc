"""Options of the methods, and their counts for the plan. Torch-free; METHODS are built in `gmml_cluster.methods`."""

import math
from fractions import Fraction
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.methods.counts import Counts, Encoder, Stack, gmml_counts, mae_counts

_PAPER = {"align": "patch", "mixing": "rectangle", "noise_ratio": 0.70, "alien_ratio": 0.35}


def divisor_of_width(heads: int, width: int | None) -> int:
    """The number of heads, if it divides the width.

    Raises:
        ValueError: it does not.
    """
    if width is not None and width % heads:
        raise ValueError(f"{heads} heads do not divide the width of {width}; choose a divisor")
    return heads


class GmmlOptions(SpecModel):
    """Group masked model learning (arXiv 2205.14986), as its authors released it unless said."""

    advised_group: ClassVar[int] = 8
    """What `data.group: auto` stands for."""
    advised_drop_path: ClassVar[float] = 0.1
    """What `model.drop_path: null` stands for."""
    name: Literal["gmml"]
    """Selects the method."""
    preset: Literal["released", "paper"] = "released"
    """`released`: pixel-aligned, one kind of corruption a view. `paper`: patch-aligned, kinds and donors mixed
    in a view as the paper's figure draws them. Fields given beside it win."""
    views: Literal[1, 2] = 2
    """Independent crops an image, each reconstructed on its own."""
    taps: Annotated[tuple[int, ...], Field(min_length=1)] | None = None
    """Blocks, counted from 1, whose outputs are averaged for the head; null takes 1/2, 2/3, 5/6 and 1 of the depth."""
    noise_ratio: float = Field(0.75, ge=0, le=0.8)
    """Upper share of pixels hidden by noise; the lower is min(0.5, this). 0 turns noise off."""
    alien_ratio: float = Field(0.30, ge=0, le=0.8)
    """Upper share of pixels replaced from another image of the group. 0 turns it off."""
    align: Annotated[int, Field(gt=0)] | Literal["patch"] = 1
    """Grid step of the rectangles in pixels; `patch` takes the patch size."""
    fill: tuple[Literal["noise", "zeros"], ...] = Field(("noise",), min_length=1)
    """What a corrupted view may be filled with, drawn once a view."""
    mixing: Literal["view", "rectangle"] = "view"
    """Whether the kind of corruption and the donor are drawn once a view or for each rectangle."""
    max_side: float = Field(0.30, gt=0, le=1)
    """Longest side of a rectangle as a share of the image's."""
    masked_only: bool = True
    """Whether the loss counts hidden pixels alone."""
    self_donor: bool = False
    """Whether an image may be its own donor, as in the released code."""

    @model_validator(mode="before")
    @classmethod
    def _apply_preset(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("preset") == "paper":
            return {**_PAPER, **given}
        return given

    @field_validator("alien_ratio")
    @classmethod
    def _hides_something(cls, ratio: float, others: ValidationInfo) -> float:
        if ratio == 0 and others.data.get("noise_ratio") == 0:
            raise ValueError("0, and noise_ratio is 0 too; nothing would be hidden; raise one of them")
        return ratio

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs."""
        return gmml_counts(encoder, image_size, self.views)


class MaeOptions(SpecModel):
    """Masked autoencoder (arXiv 2111.06377)."""

    advised_group: ClassVar[int] = 8
    """What `data.group: auto` stands for."""
    advised_drop_path: ClassVar[float] = 0.0
    """What `model.drop_path: null` stands for."""
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

    @field_validator("decoder_heads")
    @classmethod
    def _divides_width(cls, heads: int, others: ValidationInfo) -> int:
        return divisor_of_width(heads, others.data.get("decoder_width"))

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs."""
        patches = (image_size // encoder.patch_size) ** 2
        decoder = Stack(self.decoder_depth, 1 + patches, self.decoder_width, self.decoder_heads)
        return mae_counts(encoder, image_size, kept=kept_patches(self, patches), decoder=decoder)


def grid_step(options: GmmlOptions, encoder: Encoder) -> int:
    """Pixels between the places where a rectangle of GMML may begin."""
    return encoder.patch_size if options.align == "patch" else options.align


def longest_side(options: GmmlOptions, image_size: int) -> int:
    """One more than the longest side of a rectangle of GMML, in pixels."""
    return math.floor(Fraction(str(options.max_side)) * image_size)


def kept_patches(options: MaeOptions, patches: int) -> int:
    """Patches that MAE's encoder sees; METHODS 3.3 truncates in floating point."""
    return int(patches * (1 - options.mask_ratio))
