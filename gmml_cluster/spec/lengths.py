"""Small values that users write as one word: lengths of training, intervals of saving, ranges of nodes."""

import re
from typing import Any

from pydantic import Field, GetJsonSchemaHandler, model_validator
from pydantic_core import CoreSchema

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.units import seconds


class _Written(SpecModel):
    """A model that YAML writes as a scalar."""

    @classmethod
    def _read(cls, given: str | int) -> dict[str, Any]:
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _from_scalar(cls, given: Any) -> Any:
        return cls._read(given) if isinstance(given, str | int) and not isinstance(given, bool) else given

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"type": ["string", "integer"], "description": (cls.__doc__ or "").split("\n")[0]}


class Length(_Written):
    """A length of training: `10 epochs`, `500 steps` or `100000 samples`."""

    epochs: float | None = None
    """Passes over the first corpus."""
    steps: int | None = None
    """Updates of the weights."""
    samples: int | None = None
    """Images drawn."""

    @classmethod
    def _read(cls, given: str | int) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s+(epochs?|steps?|samples?)", str(given))
        if found is None:
            raise ValueError(f"{given!r} is no length; write '10 epochs', '500 steps' or '100000 samples'")
        return {found[2].removesuffix("s") + "s": float(found[1])}

    def in_steps(self, *, batch: int, epoch_steps: float) -> int:
        """Whole steps of this length, rounded; `epoch_steps` is the steps an epoch of the first corpus takes."""
        if self.steps is not None:
            return self.steps
        return round(self.samples / batch if self.samples is not None else (self.epochs or 0) * epoch_steps)


class Interval(_Written):
    """An interval of saving: `500 steps` or a duration such as `30 min`."""

    steps: int | None = Field(None, gt=0)
    """Steps between two saves."""
    seconds: float | None = Field(None, gt=0)
    """Seconds between two saves."""

    @classmethod
    def _read(cls, given: str | int) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)\s+steps?", str(given))
        return {"steps": int(found[1])} if found else {"seconds": seconds(given)}


class NodeRange(_Written):
    """A number of nodes, or a range such as `2..16`."""

    least: int = Field(gt=0)
    """Fewest nodes it starts on."""
    most: int = Field(gt=0)
    """Most nodes it uses."""

    @classmethod
    def _read(cls, given: str | int) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", str(given))
        if found is None:
            raise ValueError(f"{given!r} is no range of nodes; write 2 or 2..16")
        return {"least": int(found[1]), "most": int(found[2] or found[1])}
