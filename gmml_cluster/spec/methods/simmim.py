"""SimMIM without torch: its options, what an image costs, and its rules. The method: `gmml_cluster.methods.simmim`.

Constants and formulas: docs/reference/methods.md.
"""

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.amt import Amt, AmtOptions, broken_roles, cell_roles, with_later_of_cells
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.encoder_kind import RELATIVE, EncoderKind

CELL = ("method", "cell")
RATIO = ("method", "mask_ratio")


class SimmimOptions(SpecModel):
    """Simple framework for masked image modelling (arXiv 2111.09886), as released for ViT-B unless said."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 8
    """The group where `data.group` is `auto`."""
    advised_drop_path: ClassVar[float] = 0.1
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "simmim",
        "optim.lr": 1e-4,
        "optim.lr_per": 512,
        "optim.weight_decay": {"start": 0.05, "end": 0.05},
        "optim.clip": {"norm": 5.0, "by": "global"},
        "optim.schedule.law": "tenth",
        "optim.schedule.start_lr": 2e-6,
    }
    """The released values where the fields' defaults are GMML's; a job file that leaves them out has these."""
    takes_auxiliary: ClassVar[bool] = True
    """Whether relations of patches may be learned beside it: its encoder is called once, with the patches."""
    name: Literal["simmim"]
    """Selects the method."""
    cell: int = Field(2, gt=0, le=1000)
    """Side in patches of the cells that are masked as a whole; 2 patches of 16 are the released 32 pixels."""
    mask_ratio: float = Field(0.6, gt=0, lt=1)
    """Share of cells masked, rounded up to a whole one. With `amt`, its own where none is written here."""
    layer_scale: float = Field(0.1, gt=0, le=1)
    """What the vectors that multiply the blocks' branches begin with."""
    final_norm: bool = True
    """Whether the head reads normed tokens, as released. Without it the encoder's final norm is not trained."""
    plain: bool = False
    """Whether the encoder is the plain one of the other methods: learned positions, biases of keys, no layer scale."""
    amt: Amt = None
    """Masks that follow attention, and tokens thrown away (AMT); true takes the values below."""

    @model_validator(mode="before")
    @classmethod
    def _masks_as_many_before(cls, given: Any) -> Any:
        """As released, random masks hide as much as those that follow attention."""
        if isinstance(given, dict) and given.get("amt") and "mask_ratio" not in given:
            written = given["amt"] if isinstance(given["amt"], dict) else {}
            return {**given, "mask_ratio": written.get("mask_ratio", AmtOptions().mask_ratio)}
        return given

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    @property
    def encoder_kind(self) -> EncoderKind:
        """BEiT's, or a plain one."""
        return EncoderKind() if self.plain else RELATIVE

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs: an encoder over all tokens, masked ones too, and a linear head.

        With AMT both see fewer tokens later.
        """
        grid = image_size // encoder.patch_size
        return with_later_of_cells(self.amt, grid, self.cell, lambda held: self._counts(encoder, grid**2, held))

    def _counts(self, encoder: Encoder, N: int, H: int) -> Counts:
        """Dims: D width, N patches, H patches held."""
        pixels, D = 3 * encoder.patch_size**2, encoder.width
        own, stack = self.encoder_kind.parameters(encoder, N), self.encoder_kind.stack(encoder, H)
        frozen = 0 if self.final_norm else 2 * D
        return Counts(
            views=1,
            trained=own - frozen + D + (D + 1) * pixels,
            frozen=frozen,
            stacks=(stack,),
            other_flops=2 * (N + H) * pixels * D,
            other_values=2 * pixels * N + (1 + H) * D,
            other_bytes=8 * (1 + H),
            input_values=pixels * N,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model and the image size."""
        grid = image_size // encoder.patch_size
        if grid % self.cell:
            problem = f"cells of {self.cell} patches do not divide a grid of {grid}"
            blamed = CELL if "cell" in self.model_fields_set else IMAGE
            yield broken(blamed, problem, "write a divisor of the grid as cell", METHOD, CELL, IMAGE, PATCH)
            return
        cells = (grid // self.cell) ** 2
        if self.amt is not None:
            yield from broken_roles(self.amt, cell_roles(self.amt, cells), "cells")
        if masked_cell_count(self, grid) >= cells:
            problem = f"a mask_ratio of {self.mask_ratio} masks all of {cells} cells; some are masked and some not"
            blamed = RATIO if "mask_ratio" in self.model_fields_set else IMAGE
            yield broken(blamed, problem, "lower mask_ratio, or take smaller cells", METHOD, RATIO, CELL, IMAGE, PATCH)


def masked_cell_count(options: SimmimOptions, grid: int) -> int:
    """Cells masked of each image: rounded up in floating point, as the released code does."""
    return math.ceil((grid // options.cell) ** 2 * options.mask_ratio)
