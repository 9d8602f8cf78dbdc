"""GMML without torch: its options, what an image costs, and its rules. The method itself: `gmml_cluster.methods.gmml`.

Constants and formulas: docs/reference/methods.md.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.broken import GROUP, IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.amt import Amt, broken_roles, token_roles
from gmml_cluster.spec.methods.counts import Counts, Encoder, encoder_parameters, encoder_stack
from gmml_cluster.spec.methods.encoder_kind import EncoderKind

ALIGN = ("method", "align")
MAX_SIDE = ("method", "max_side")
TAPS = ("method", "taps")
RATIOS = (("method", "noise_ratio"), ("method", "alien_ratio"))
CANDIDATES = 192
"""Rectangles drawn for a view; a fixed number, so that shapes are static."""
SPREAD = 0.11
"""Margin between the expected hidden share and what a view may need: the least of 3,000 views lay 0.05 to 0.104 below
the expectation at 32 to 224 pixels, measured."""
_SAMPLED_LINES = 48
_PAPER = {"align": "patch", "mixing": "rectangle", "noise_ratio": 0.70, "alien_ratio": 0.35}


class GmmlOptions(SpecModel):
    """Group masked model learning (arXiv 2205.14986), as its authors released it unless said."""

    bare: ClassVar[tuple[str, ...]] = ("name",)
    advised_group: ClassVar[int] = 8
    """The group where `data.group` is `auto`."""
    advised_drop_path: ClassVar[float] = 0.1
    """The rate where `model.drop_path` is null."""
    takes_auxiliary: ClassVar[bool] = True
    """Whether relations of patches can be learned beside it."""
    name: Literal["gmml"]
    """Selects the method."""
    preset: Literal["released", "paper"] = "released"
    """`released`: pixel-aligned, one kind of corruption a view. `paper`: patch-aligned, kinds and donors mixed
    in a view as the paper's figure draws them. Fields given beside it win."""
    views: Literal[1, 2] = 2
    """Independent crops an image, each reconstructed on its own."""
    taps: Annotated[tuple[int, ...], Field(min_length=1)] | None = Field(None, examples=[[6, 8, 10, 12]])
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
    amt: Amt = None
    """Masks that follow attention, and tokens thrown away (AMT); true takes the values below."""

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
            raise Refused("0, and noise_ratio is 0 too; nothing would be hidden", "raise one of them")
        return ratio

    @property
    def encoder_kind(self) -> EncoderKind:
        """A plain one."""
        return EncoderKind()

    def counts(self, encoder: Encoder, image_size: int) -> Counts:
        """What an image costs; with AMT the encoder sees fewer tokens later."""
        first = gmml_counts(encoder, image_size, self.views)
        if self.amt is None:
            return first
        roles = token_roles(self.amt, (image_size // encoder.patch_size) ** 2)
        return replace(first, later=gmml_counts(encoder, image_size, self.views, held=roles.held))

    def broken_rules(self, encoder: Encoder, image_size: int, group: int) -> Iterator[Broken]:
        """Rules that the options break together with the model, the image size and the group."""
        yield from _rectangles_hide_enough(self, encoder, image_size)
        yield from _taps_end_with_the_last_block(self, encoder.depth)
        if self.amt is not None:
            patches = (image_size // encoder.patch_size) ** 2
            yield from broken_roles(self.amt, token_roles(self.amt, patches), "patches")
        if self.alien_ratio and group < 2 and not self.self_donor:
            problem = f"{group} is too few; GMML takes pixels from another image of the group"
            yield broken(GROUP, problem, "write at least 2", METHOD, RATIOS[1], ("method", "self_donor"))


def gmml_counts(encoder: Encoder, image_size: int, views: int, *, held: int | None = None) -> Counts:
    """Counts of an encoder over all tokens, and a head of three layers and a transposed convolution.

    Where some are thrown away, encoder and layers are over those `held`.

    Dims: D width, N patches, H patches held.
    """
    D, pixels, N = encoder.width, 3 * encoder.patch_size**2, (image_size // encoder.patch_size) ** 2
    H = N if held is None else held
    return Counts(
        views=views,
        trained=encoder_parameters(encoder, N) + 3 * (D**2 + D) + pixels * D + 3,
        frozen=0,
        stacks=(encoder_stack(encoder, 1 + H),),
        other_flops=2 * N * pixels * D + 6 * H * D**2 + 2 * N * pixels * D,
        other_values=3 * pixels * N + (1 + H) * D + 6 * H * D + N * D,
        other_bytes=8 * (1 + H),
        input_values=pixels * N,
    )


def grid_step(options: GmmlOptions, encoder: Encoder) -> int:
    """Pixels between the positions at which a rectangle may begin."""
    return encoder.patch_size if options.align == "patch" else options.align


def longest_side(options: GmmlOptions, image_size: int) -> int:
    """One more than the longest side of a rectangle, in pixels."""
    return math.floor(Fraction(str(options.max_side)) * image_size)


@lru_cache(maxsize=64)
def expected_hidden(size: int, step: int, longest: int) -> float:
    """Expected share of the image that the union of all candidate rectangles covers.

    The draws are those of `gmml_cluster.methods.masks.gmml_rectangles`: corners on a grid, sides below `longest`, cut
    at the edges.

    Args:
        size: side of the image in pixels.
        step: of corners and sides in pixels, below `longest`.
        longest: sides are below this.
    """
    hit = _hit_probabilities(size, step, longest)
    pixels = [1 - (1 - row * column) ** CANDIDATES for row in hit for column in hit]
    return sum(pixels) / len(pixels)


def _hit_probabilities(size: int, step: int, longest: int) -> list[float]:
    """For some lines, spread evenly over the image, the probability that a rectangle covers the line."""
    lines = [int((index + 0.5) * size / min(size, _SAMPLED_LINES)) for index in range(min(size, _SAMPLED_LINES))]
    tops = range(0, size - step, step)
    sides = [round(side / step) * step for side in range(step, longest)]
    longer = [sum(side > distance for side in sides) for distance in range(max(sides) + 1)]
    hits = [sum(longer[line - top] for top in tops if 0 <= line - top < len(longer)) for line in lines]
    return [count / (len(tops) * len(sides)) for count in hits]


def _rectangles_hide_enough(options: GmmlOptions, encoder: Encoder, size: int) -> Iterator[Broken]:
    step, longest = grid_step(options, encoder), longest_side(options, size)
    written = [path for path in (MAX_SIDE, ALIGN) if path[1] in options.model_fields_set]
    uses = (METHOD, ALIGN, IMAGE, PATCH, MAX_SIDE, *RATIOS)
    if size % step:
        problem = f"a mask grid of steps of {step} pixels does not fit images of {size}; the step divides the image"
        yield broken(ALIGN if ALIGN in written else IMAGE, problem, "choose another align, or other images", *uses)
    elif step >= longest or expected_hidden(size, step, longest) < _needed(options):
        share = max(options.noise_ratio, options.alien_ratio)
        drawn = f"{CANDIDATES} rectangles of sides below {longest} pixels, in steps of {step}"
        problem = f"{drawn}, cannot hide {share:.0%} of images of {size} pixels"
        yield broken((written or [IMAGE])[0], problem, _side_hint(options, size, step), *uses)


def _needed(options: GmmlOptions) -> float:
    """Share that all candidates must cover in expectation, so that in practice every view reaches its ratio."""
    return max(options.noise_ratio, options.alien_ratio) + SPREAD


def _side_hint(options: GmmlOptions, size: int, step: int) -> str:
    sides = [percent / 100 for percent in range(1, 101)]
    least = next((side for side in sides if _suffices(options, size, step, int(side * size))), None)
    smaller = "" if step == 1 else "a smaller method.align, "
    side = "" if least is None else f"method.max_side of {least} or more, "
    return f"take {side}{smaller}or lower method.noise_ratio and alien_ratio"


def _suffices(options: GmmlOptions, size: int, step: int, longest: int) -> bool:
    return longest > step and expected_hidden(size, step, longest) >= _needed(options)


def _taps_end_with_the_last_block(options: GmmlOptions, depth: int) -> Iterator[Broken]:
    taps = options.taps
    if taps is not None and (sorted(set(taps)) != list(taps) or taps[0] < 1 or taps[-1] != depth):
        rule = f"blocks ascend from 1 and end with the last, {depth}, or some would never be trained"
        hint = f"write {sorted({max(1, depth // 2), depth})}, or null for the default"
        yield broken(TAPS, f"{list(taps)} does not fit; {rule}", hint, METHOD, ("model", "depth"))
