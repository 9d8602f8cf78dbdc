"""The base of every model that a user writes as YAML, and the fault that its validators raise."""

from typing import ClassVar

from pydantic import BaseModel, ConfigDict


class SpecModel(BaseModel):
    """Frozen, refuses unknown keys, and takes each field's docstring into the JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
    bare: ClassVar[tuple[str, ...]] = ()
    """Fields that are probably meant where a single value is written instead of the mapping; the hint shows them."""


class Refused(ValueError):
    """A value that a validator refuses: the problem with the value and the rule, and what to write instead."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem, self.hint = problem, hint
