"""I-JEPA without torch: its options, what an image costs, and its rules. The method: `gmml_cluster.methods.ijepa`.

Constants and formulas: docs/reference/methods.md.
"""

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, Field

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods import multi_block
from gmml_cluster.spec.methods.counts import Counts, Encoder, Stack, encoder_stack
from gmml_cluster.spec.methods.encoder_kind import EncoderKind

CONTEXT = ("method", "context_patches")
CUT = ("method", "cut")
MASKS = ("method", "masks")
MIN_KEEP = ("method", "min_keep")
PREDICTOR_HEADS = ("method", "predictor_heads")
PREDICTOR_WIDTH = ("method", "predictor_width")
TARGET_SCALE = ("method", "target_scale")
DROP_PATH = ("model", "drop_path")


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    if bounds[0] > bounds[1]:
        raise Refused(f"{list(bounds)} runs backwards; the least comes first", f"write {list(bounds[::-1])}")
    return bounds


Share = Annotated[float, Field(gt=0, le=1)]
Scale = Annotated[tuple[Share, Share], AfterValidator(_ascending)]
Momentum = Annotated[float, Field(ge=0, le=1)]


class IjepaOptions(SpecModel):
    """Image-based joint-embedding predictive architecture (arXiv 2301.08243)."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 8
    """The group where `data.group` is `auto`."""
    advised_drop_path: ClassVar[float] = 0.0
    """The rate where `model.drop_path` is null."""
    recipe: ClassVar[dict[str, Any]] = {
        "data.augment": "ijepa",
        "optim.lr": 1e-3,
        "optim.lr_per": None,
        "optim.clip": None,
        "optim.schedule.law": "next",
        "optim.schedule.start_lr": 2e-4,
        "optim.schedule.warmup": "40 epochs",
    }
    """Its authors' values where the fields' defaults are GMML's; a job file that leaves them out has these."""
    name: Literal["ijepa"]
    """Selects the method."""
    predictor_width: int = Field(384, gt=0, le=10**6, multiple_of=4)
    """Width of the predictor."""
    predictor_depth: Annotated[int, Field(gt=0, le=1000)] | Literal["auto"] = "auto"
    """Blocks of the predictor. `auto`: 6, from 24 blocks of the encoder on 12, from 40 on 16."""
    predictor_heads: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Heads of the predictor; they divide its width. `auto`: as many as the encoder has."""
    masks: Literal["fixed", "padded"] = "fixed"
    """`fixed`: targets of one area, contexts of one number of patches; nothing couples images. `padded`: the released
    rule, whose sizes are drawn for a group and whose contexts differ in length."""
    targets: int = Field(4, ge=1, le=4)
    """Rectangles that are predicted of an image."""
    target_scale: Scale = (0.15, 0.2)
    """Least and greatest area of a target as a share of the patches; `fixed` takes their mean."""
    context_scale: Scale = (0.85, 1.0)
    """Least and greatest area of the context's rectangle as a share of the patches, before targets are taken out."""
    context_patches: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Patches that the encoder sees. `fixed`: exactly; `auto` is 12, 48 and 64 on grids of 8, 14 and 16, else a quarter
    of those that the border leaves. `padded`: at most; greater contexts are cut at random, and `auto` cuts none."""
    border: Literal["released", "full"] = "released"
    """Whether the grid's last row and column are left out, as in the released code, or covered too."""
    min_keep: int = Field(10, ge=0)
    """`padded`: a context, and a target, has more patches than this."""
    cut: Literal["none", "group"] = "none"
    """`padded`: whether contexts are cut to the smallest of their group, the first rows staying, as the released code
    does in a GPU's batch."""
    loss: Literal["smooth_l1", "l2"] = "smooth_l1"
    """Smooth L1 with beta 1, as released, or the paper's square, averaged."""
    norm_target: bool = True
    """Whether each vector of the teacher is brought to mean 0 and variance 1, as released."""
    momentum: tuple[Momentum, Momentum] = (0.996, 1.0)
    """Share that the teacher keeps of itself in a step: at the first step, and what it nears on a line."""
    scaled_init: bool = False
    """Whether the matrices that end the branches of block i, from 1, begin divided by sqrt(2 i); in the released code
    that is undone."""

    @property
    def views(self) -> int:
        """Crops an image."""
        return 1

    @property
    def encoder_kind(self) -> EncoderKind:
        """With MAE's fixed positions and no class token; of the teacher too."""
        return EncoderKind(positions="sincos", class_token=False)

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs: an encoder over the context, a predictor for each target, a teacher over all patches.

        Dims: D width of the encoder, d of the predictor, N patches, K of the context, P of a target, M targets.
        """
        grid = image_size // encoder.patch_size
        N, D, d, M = grid**2, encoder.width, self.predictor_width, self.targets
        K, P, pixels = context_length(self, grid), target_length(self, grid), 3 * encoder.patch_size**2
        trunk = encoder_stack(encoder, K)
        predictor = predictor_stack(self, encoder, K + P)
        trained_encoder = trunk.parameters + (pixels + 1) * D + 2 * D
        teacher = encoder_stack(encoder, N)
        return Counts(
            views=1,
            trained=trained_encoder + predictor.parameters + (D * d + d) + d + 2 * d + (d * D + D),
            frozen=trained_encoder + N * (2 * D + d),
            stacks=(trunk, *(predictor,) * M),
            other_flops=2 * N * pixels * D + 2 * K * D * d + 2 * M * P * d * D,
            other_values=N * D + 2 * K * D + M * (K + P) * d + M * P * d + 2 * M * P * D,
            other_bytes=8 * K + 8 * M * P,
            input_values=pixels * N,
            teacher_flops=teacher.flops + 2 * N * pixels * D,
        )

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model and the image size."""
        heads = predictor_heads(self, encoder)
        if self.predictor_width % heads:
            problem = f"{heads} heads do not divide the predictor's width of {self.predictor_width}"
            yield broken(PREDICTOR_HEADS, problem, "choose a divisor", METHOD, PREDICTOR_WIDTH, ("model", "heads"))
        if encoder.drop_path:
            problem = f"{encoder.drop_path} does not fit; I-JEPA drops no blocks"
            yield broken(DROP_PATH, problem, "write 0 or leave it out", METHOD)
        yield from _masks_leave_a_context(self, image_size // encoder.patch_size)


def predictor_heads(options: IjepaOptions, encoder: Encoder) -> int:
    """Heads of the predictor's blocks."""
    return encoder.heads if options.predictor_heads == "auto" else options.predictor_heads


def predictor_depth(options: IjepaOptions, encoder: Encoder) -> int:
    """Blocks of the predictor: the paper has 6 for ViT-B, 12 for L and H, 16 for G; between them it is ours."""
    if options.predictor_depth != "auto":
        return options.predictor_depth
    return 6 if encoder.depth < 24 else 12 if encoder.depth < 40 else 16


def predictor_stack(options: IjepaOptions, encoder: Encoder, tokens: int) -> Stack:
    """The predictor's blocks over a sequence of `tokens`."""
    heads = predictor_heads(options, encoder)
    return Stack(predictor_depth(options, encoder), tokens, options.predictor_width, heads)


def context_length(options: IjepaOptions, grid: int) -> int:
    """Patches of the encoder's sequence."""
    if options.context_patches != "auto":
        return options.context_patches
    if options.masks == "fixed":
        return multi_block.fixed_context(grid, options.border)
    return multi_block.most_context(grid, options.border, options.target_scale)


def target_length(options: IjepaOptions, grid: int) -> int:
    """Mask tokens of a sequence of the predictor."""
    if options.masks == "padded":
        return max(multi_block.target_sizes(grid, options.border, options.target_scale).areas)
    short, long = multi_block.fixed_target(grid, options.border, options.target_scale)
    return short * long


def _masks_leave_a_context(options: IjepaOptions, grid: int) -> Iterator[Broken]:
    uses = (METHOD, MASKS, IMAGE, PATCH, TARGET_SCALE, ("method", "border"))
    reach = multi_block.reach(grid, options.border)
    if reach < 2:
        problem = f"masks reach {reach} of the {grid} rows of patches; a target and its context take two"
        yield broken(IMAGE, problem, "take smaller patches or larger images", *uses)
        return
    if options.masks == "fixed":
        if options.cut != "none":
            problem = "group does not fit; contexts of fixed masks have one number of patches"
            yield broken(CUT, problem, "leave it out, or write masks: padded", METHOD, MASKS)
        most = reach**2 - target_length(options, grid)
        if context_length(options, grid) > most:
            problem = f"{context_length(options, grid)} patches do not fit; masks on a grid of {grid} leave {most}"
            written = (field for field in (CONTEXT, TARGET_SCALE) if field[1] in options.model_fields_set)
            hint = "take fewer, smaller targets, or more patches an image"
            yield broken(next(written, IMAGE), problem, hint, CONTEXT, *uses)
        return
    least = min(multi_block.target_sizes(grid, options.border, options.target_scale).areas)
    if options.min_keep >= least:
        problem = f"{options.min_keep} does not fit; targets on a grid of {grid} may have {least} patches"
        yield broken(MIN_KEEP, problem, f"write {least - 1} or less", *uses)
    most = context_length(options, grid)
    if most > options.min_keep:
        return
    if options.context_patches != "auto":
        problem = f"{most} does not fit; contexts have more than min_keep ({options.min_keep})"
        yield broken(CONTEXT, problem, "raise it, or lower min_keep", MIN_KEEP, *uses)
    else:
        at = TARGET_SCALE if TARGET_SCALE[1] in options.model_fields_set else IMAGE
        rule = f"which has more than min_keep ({options.min_keep})"
        problem = f"targets of {least} patches leave {most} of {reach**2} to the context, {rule}"
        yield broken(at, problem, "take smaller targets, or more patches an image", MIN_KEEP, *uses)
