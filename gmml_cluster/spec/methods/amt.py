"""AMT without torch: masks that follow attention, and tokens thrown away, in MAE, SimMIM, GMML and ConMIM.

The sampler: `gmml_cluster.methods.masks.attention`. Source: arXiv 2211.15362; constants: docs/reference/methods.md.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from gmml_cluster.spec.base import Refused, SpecModel
from gmml_cluster.spec.broken import IMAGE, METHOD, PATCH, Broken, broken
from gmml_cluster.spec.methods.counts import Counts
from gmml_cluster.spec.scalars import Length

AMT = ("method", "amt")


class AmtOptions(SpecModel):
    """Attention-driven masking and throwing (arXiv 2211.15362)."""

    mask_ratio: float = Field(0.44, gt=0, lt=1)
    """Share masked; those with much attention more often."""
    throw_ratio: float = Field(0.26, ge=0, lt=1, validate_default=True)
    """Share thrown away: neither seen nor reconstructed. 0 masks by attention alone."""
    start: Length = Length(epochs=41)
    """Until then masks are random."""
    interval: Length = Length(epochs=40)
    """From one pass over the corpora, which makes the maps of attention, to the next; the first is this far in."""
    alignment: Literal["exact", "released"] = "exact"
    """How a map is cut to a view: by areas, or as released, where the map's first corner alone is read."""

    @field_validator("throw_ratio")
    @classmethod
    def _leaves_some(cls, ratio: float, others: ValidationInfo) -> float:
        masked = others.data.get("mask_ratio", 0.0)
        if masked + ratio >= 1:
            raise Refused(f"{ratio}, and mask_ratio is {masked}; nothing would be left to see", "lower one of them")
        return ratio

    @field_validator("interval")
    @classmethod
    def _passes(cls, interval: Length, others: ValidationInfo) -> Length:
        if not (interval.epochs or interval.steps or interval.samples):
            raise Refused(f"{interval.written} never passes", "write a length above 0")
        start: Length = others.data.get("start", interval)
        for unit in ("epochs", "steps", "samples"):
            first, asked = getattr(interval, unit), getattr(start, unit)
            if first is not None and asked is not None and asked < first:
                rule = "there are no maps before the first interval has passed"
                raise Refused(f"{interval.written}, and start is {start.written}; {rule}", "lower it, or raise start")
        return interval


class MaeAmtOptions(AmtOptions):
    """Attention-driven masking and throwing (arXiv 2211.15362), with the ratios it has in MAE."""

    mask_ratio: float = Field(0.45, gt=0, lt=1)
    """Share masked; those with much attention more often."""
    throw_ratio: float = Field(0.40, ge=0, lt=1, validate_default=True)
    """Share thrown away: neither seen nor reconstructed. 0 masks by attention alone."""


def read_switch(given: Any) -> Any:
    """`true` as the options' defaults, `false` as none."""
    if isinstance(given, bool):
        return {} if given else None
    return given


Amt = Annotated[AmtOptions | None, BeforeValidator(read_switch, json_schema_input_type=bool | AmtOptions | None)]
MaeAmt = Annotated[
    MaeAmtOptions | None, BeforeValidator(read_switch, json_schema_input_type=bool | MaeAmtOptions | None)
]


class Roles(NamedTuple):
    """How many tokens, or cells, have each role; equal for all images."""

    masked: int
    thrown: int
    visible: int

    @property
    def held(self) -> int:
        """Those that are not thrown."""
        return self.masked + self.visible

    def times(self, each: int) -> "Roles":
        """Tokens of cells of `each`."""
        return Roles(*(each * count for count in self))


def token_roles(options: AmtOptions, tokens: int) -> Roles:
    """Roles of single tokens: both cuts rounded down in floating point, as the released code does in MAE."""
    masked = int(tokens * options.mask_ratio)
    gone = int(tokens * (options.mask_ratio + options.throw_ratio))
    return Roles(masked, gone - masked, tokens - gone)


def cell_roles(options: AmtOptions, cells: int) -> Roles:
    """Roles of cells: both shares rounded up, as the released code does in SimMIM, but one cell stays visible."""
    masked = math.ceil(cells * options.mask_ratio)
    thrown = max(0, min(math.ceil(cells * options.throw_ratio), cells - masked - 1))
    return Roles(masked, thrown, cells - masked - thrown)


def with_later_of_cells(options: AmtOptions | None, grid: int, cell: int, counts: Callable[[int], Counts]) -> Counts:
    """What an image costs where whole cells are masked, and later with some thrown away.

    Args:
        options: None where none are.
        grid: patches a side of an image.
        cell: patches a side of a cell.
        counts: of the number of patches held.
    """
    first = counts(grid**2)
    if options is None or grid % cell:
        return first
    return replace(first, later=counts(cell_roles(options, (grid // cell) ** 2).times(cell**2).held))


def broken_roles(options: AmtOptions, roles: Roles, unit: str) -> Iterator[Broken]:
    """The rule that some are masked, some visible, and some thrown if any are to be.

    Args:
        options: with the ratios.
        roles: what they come to.
        unit: what is counted, as `patches`.
    """
    if roles.masked and roles.visible and (roles.thrown or not options.throw_ratio):
        return
    ratios = f"ratios of {options.mask_ratio} masked and {options.throw_ratio} thrown"
    counts = f"{roles.masked} masked, {roles.thrown} thrown and {roles.visible} visible {unit}"
    problem = f"{ratios} come to {counts}; some are needed of each"
    blamed = (*AMT, "mask_ratio") if "mask_ratio" in options.model_fields_set else AMT
    yield broken(blamed, problem, "choose other ratios, or more patches", METHOD, AMT, IMAGE, PATCH)
