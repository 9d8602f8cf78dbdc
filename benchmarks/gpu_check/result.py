"""What a row of the check is given and what it returns; imports no torch."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "failed", "not run", "out of memory", "crashed", "timed out"]
BAD: tuple[Outcome, ...] = ("failed", "crashed", "timed out")
"""Outcomes for which the command exits with 1. Out of memory is a measurement, and what cannot run says why."""


@dataclass(frozen=True)
class Setting:
    """What all rows are given.

    Attributes:
        device: `cuda` or `cpu`.
        quick: whether sizes are tiny, so that a row takes seconds on a CPU; its figures mean nothing then.
        data: folder of packed photographs; where it is absent, digits are packed instead.
    """

    device: str
    quick: bool
    data: Path

    def to_json(self) -> dict[str, Any]:
        """Plain mapping; `from_json` reads it back."""
        return {**asdict(self), "data": str(self.data)}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> "Setting":
        """What `to_json` wrote."""
        return cls(given["device"], given["quick"], Path(given["data"]))


@dataclass(frozen=True)
class Result:
    """What a row found.

    Attributes:
        figures: names to numbers, texts or lists, as JSON can hold them.
        message: one or a few lines; why, where the outcome is not `ok`.
    """

    outcome: Outcome
    figures: dict[str, Any] = field(default_factory=dict)
    message: str = ""


class CannotRun(Exception):
    """This machine lacks what the row needs; says what."""


def verdict(problems: list[str], figures: dict[str, Any]) -> Result:
    """`ok` where there are no problems, else `failed` with all of them."""
    return Result("failed" if problems else "ok", figures, "; ".join(problems))
