"""ConMIM without torch: its options, what an image costs, and its rules. The method: `gmml_cluster.methods.conmim`.

Constants and formulas: docs/reference/methods.md.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.amt import Amt, broken_roles, cell_roles, with_later_of_cells
from gmml_cluster.spec.methods.counts import Counts, Encoder
from gmml_cluster.spec.methods.encoder_kind import RELATIVE, EncoderKind

CELL = ("method", "cell")
RATIO = ("method", "mask_ratio")
FEW_ROWS, ADVISED_ROWS = 2000, 8000
"""Rows of the projectors' batch norms: with fewer than the first a plan notes it. Released: 12,608."""
DROP_PATH = ("model", "drop_path")

Width = Annotated[int, Field(gt=0, le=10**6)]


class ConmimOptions(SpecModel):
    """Masked image modelling with denoising contrast (arXiv 2205.09616), as released for ViT-L unless said."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 64
    """The group where `data.group` is `auto`: rows of the projector's batch norm, as of a released GPU's batch."""
    advised_drop_path: ClassVar[float] = 0.0
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "conmim",
        "optim.lr": 7.5e-4,
        "optim.lr_per": None,
        "optim.betas": [0.9, 0.98],
        "optim.weight_decay": {"start": 0.05, "end": 0.05},
        "optim.clip": {"norm": 1.0, "by": "global"},
        "optim.schedule.final_lr": 1e-5,
    }
    """The released values where the fields' defaults are GMML's; a job file that leaves them out has these."""
    takes_auxiliary: ClassVar[bool] = True
    """Whether relations of patches may be learned beside it: its student's encoder is called once, with the patches."""
    needs_aligned: ClassVar[bool] = True
    """Whether all views of an image must have one crop and one flip."""
    name: Literal["conmim"]
    """Selects the method."""
    masks: Literal["cells", "blocks"] = "cells"
    """`cells`: equally many cells of each image. `blocks`: BEiT's rectangles, at most the share of the patches."""
    cell: int = Field(2, gt=0, le=1000)
    """Side in patches of the cells that are masked as a whole; 2 patches of 16 are the released 32 pixels."""
    mask_ratio: float = Field(0.75, gt=0, lt=1)
    """Share of cells masked, rounded up to a whole one; of patches with `blocks`, rounded down."""
    temperature: float = Field(0.1, gt=0, le=100)
    """What cosines are divided by."""
    projector: tuple[Width, Width, Width] = (4096, 4096, 256)
    """Widths of the projector's layers; the last is that of queries and keys."""
    layer_scale: float = Field(0.1, gt=0, le=1)
    """What the vectors that multiply the blocks' branches begin with; released 0.1, for ViT-L 0.00001."""
    momentum: float = Field(0.996, ge=0, le=1)
    """Share that the teacher keeps of itself at the first step; it rises to 1 by a cosine."""
    amt: Amt = None
    """Masks that follow attention, and tokens thrown away (AMT); true takes the values below."""

    @property
    def views(self) -> int:
        """Views an image: the weak one that the student sees masked, and the strong one of the teacher."""
        return 2

    @property
    def encoder_kind(self) -> EncoderKind:
        """BEiT's, of student and teacher."""
        return RELATIVE

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs: a student over all tokens of one view, a teacher over all of the other.

        `Counts` are a view's, and each has one of the two networks: so halves of what both views cost.

        With AMT both see fewer tokens later.
        """
        grid = image_size // encoder.patch_size
        return with_later_of_cells(self.amt, grid, self.cell, lambda held: self._counts(encoder, grid**2, held))

    def _counts(self, encoder: Encoder, N: int, H: int) -> Counts:
        """Dims: D width, N patches, H patches held, T tokens, a, b, c widths of the projector."""
        pixels, D = 3 * encoder.patch_size**2, encoder.width
        T, (a, b, c) = 1 + H, self.projector
        own, stack = self.encoder_kind.parameters(encoder, N), self.encoder_kind.stack(encoder, H)
        matrices = D * a + a * b + b * c
        student = own + D + matrices + 2 * a + 2 * b
        outside = 2 * N * pixels * D + 2 * T * matrices + 2 * H * H * c
        return Counts(
            views=1,
            trained=student,
            frozen=student,
            stacks=(stack,),
            other_flops=outside,
            other_values=2 * T * D,
            # in fp32 whatever the precision: each batch norm keeps its input, that centred and that normed, and a
            # hidden layer its output; then keys and logits
            other_bytes=4 * (2 * T + T * (4 * a + 4 * b + 3 * c) + H * (c + H)),
            input_values=2 * pixels * N,
            teacher_flops=stack.flops + outside - 2 * H * H * c,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model and the image size."""
        if encoder.drop_path:
            problem = f"{encoder.drop_path} does not fit; ConMIM drops no blocks"
            yield broken(DROP_PATH, problem, "write 0 or leave it out", METHOD)
        grid = image_size // encoder.patch_size
        blamed = RATIO if "mask_ratio" in self.model_fields_set else IMAGE
        if grid % self.cell == 0 and self.amt is not None:
            yield from broken_roles(self.amt, cell_roles(self.amt, (grid // self.cell) ** 2), "cells")
        if self.masks == "blocks" and not (self.amt is not None and grid % self.cell):
            if block_target(self, grid) < 1:
                problem = f"a mask_ratio of {self.mask_ratio} masks none of {grid**2} patches"
                yield broken(blamed, problem, "raise mask_ratio", METHOD, RATIO, IMAGE, PATCH)
            return
        if grid % self.cell:
            problem = f"cells of {self.cell} patches do not divide a grid of {grid}"
            at = CELL if "cell" in self.model_fields_set else IMAGE
            yield broken(at, problem, "write a divisor of the grid as cell", METHOD, CELL, IMAGE, PATCH)
        elif masked_cell_count(self, grid) == (grid // self.cell) ** 2:
            problem = f"a mask_ratio of {self.mask_ratio} masks all cells of {self.cell} patches on a grid of {grid}"
            yield broken(blamed, problem, "lower mask_ratio, or take smaller cells", METHOD, RATIO, CELL, IMAGE, PATCH)

    def advice(self, encoder: Encoder, image_size: int, group: int) -> Iterator[str]:
        """What the plan notes of options that work, but not well."""
        grid = image_size // encoder.patch_size
        tokens = 1 + grid**2
        if self.amt is not None and grid % self.cell == 0:
            tokens = 1 + cell_roles(self.amt, (grid // self.cell) ** 2).times(self.cell**2).held
        rows, advised = group * tokens, 2 ** math.ceil(math.log2(ADVISED_ROWS / tokens))
        if rows < FEW_ROWS:
            few = f"groups of {group} images give ConMIM's batch norms {rows:,} rows, of {tokens} tokens an image"
            yield f"{few}; released are 12,608: take a data.group of {advised}, in a batch of as many groups as ranks"


def masked_cell_count(options: ConmimOptions, grid: int) -> int:
    """Cells masked of each image: rounded up in floating point, as the released code does."""
    return math.ceil((grid // options.cell) ** 2 * options.mask_ratio)


def block_target(options: ConmimOptions, grid: int) -> int:
    """Most patches that blocks hide."""
    return int(grid**2 * options.mask_ratio)


def least_block(grid: int) -> int:
    """Least area drawn for a rectangle: the released 16 of 196 patches, and that share of other grids."""
    return max(1, round(16 * grid**2 / 196))
