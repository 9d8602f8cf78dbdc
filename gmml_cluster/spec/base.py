"""The base of every model that a user writes as YAML."""

from pydantic import BaseModel, ConfigDict


class SpecModel(BaseModel):
    """Frozen, refuses unknown keys, and takes each field's docstring into the JSON Schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)
