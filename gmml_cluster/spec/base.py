"""The base of every model that a user writes as YAML, and the fault that its validators raise."""

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from gmml_cluster.spec.docstrings import docstrings_of


class SpecModel(BaseModel):
    """Frozen, refuses unknown keys, and takes each field's docstring into the JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    bare: ClassVar[tuple[str, ...]] = ()
    """Fields that are probably meant where a single value is written instead of the mapping; the hint shows them."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """The schema with the fields' docstrings.

        pydantic's own `use_attribute_docstrings` parses the source of each model when it is imported: 0.14 s of CPU of
        every command and of every rank's start, for a text that only a schema shows.
        """
        schema = handler(core)
        fields = handler.resolve_ref_schema(schema).get("properties", {})
        for name, text in docstrings_of(cls).items():
            if name in fields:
                fields[name].setdefault("description", text)
        return schema


class Refused(ValueError):
    """A value that a validator refuses: the problem with the value and the rule, and what to write instead."""

    def __init__(self, problem: str, hint: str) -> None:
        super().__init__(f"{problem}; {hint}")
        self.problem, self.hint = problem, hint
