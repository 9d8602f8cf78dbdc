"""Options of the methods, and their counts for the plan. Torch-free; METHODS are built in `gmml_cluster.methods`."""

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gmml_cluster.spec.base import SpecModel

_PAPER = {"align": "patch", "mixing": "rectangle", "noise_ratio": 0.70, "alien_ratio": 0.35}


class GmmlOptions(SpecModel):
    """Group masked model learning (arXiv 2205.14986), as its authors released it unless said."""

    name: Literal["gmml"]
    """Selects the method."""
    preset: Literal["released", "paper"] = "released"
    """`released`: pixel-aligned, one kind of corruption a view. `paper`: patch-aligned, kinds and donors mixed
    in a view as the paper's figure draws them. Fields given beside it win."""
    views: Literal[1, 2] = 2
    """Independent crops an image, each reconstructed on its own."""
    taps: tuple[int, ...] | None = None
    """Blocks, counted from 1, whose outputs are averaged for the head; null takes 1/2, 2/3, 5/6 and 1 of the depth."""
    noise_ratio: float = Field(0.75, ge=0, le=0.8)
    """Upper share of pixels hidden by noise; the lower is min(0.5, this). 0 turns noise off."""
    alien_ratio: float = Field(0.30, ge=0, le=0.8)
    """Upper share of pixels replaced from another image of the group. 0 turns it off."""
    align: int | Literal["patch"] = 1
    """Grid step of the rectangles in pixels; `patch` takes the patch size."""
    fill: tuple[Literal["noise", "zeros"], ...] = ("noise",)
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

    @model_validator(mode="after")
    def _hide_something(self) -> "GmmlOptions":
        if self.noise_ratio == 0 and self.alien_ratio == 0:
            raise ValueError("noise_ratio and alien_ratio are both 0; nothing would be hidden; raise one of them")
        if self.taps is not None and not self.taps:
            raise ValueError("taps is empty; the head needs a block to read; name at least one block or leave it out")
        if not self.fill:
            raise ValueError("fill is empty; a corrupted view needs a content; write [noise]")
        return self


class MaeOptions(SpecModel):
    """Masked autoencoder (arXiv 2111.06377)."""

    name: Literal["mae"]
    """Selects the method."""
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    """Share of tokens removed before the encoder."""
    decoder_width: int = Field(512, gt=0, multiple_of=4)
    """Width of the decoder."""
    decoder_depth: int = Field(8, gt=0)
    """Blocks of the decoder."""
    decoder_heads: int = Field(16, gt=0)
    """Heads of the decoder; they divide its width."""
    standardise: bool = True
    """Whether each patch of the target is brought to mean 0 and (unbiased) variance 1."""

    @model_validator(mode="after")
    def _heads_divide_width(self) -> "MaeOptions":
        if self.decoder_width % self.decoder_heads:
            raise ValueError(f"decoder_heads {self.decoder_heads} does not divide decoder_width {self.decoder_width}")
        return self

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1


MethodOptions = Annotated[GmmlOptions | MaeOptions, Field(discriminator="name")]
