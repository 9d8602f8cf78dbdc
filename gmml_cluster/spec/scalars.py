"""Small values that users write as one word: lengths of training, intervals of saving, ranges of nodes."""

import re
from typing import Any

from pydantic import Field, GetJsonSchemaHandler, model_serializer, model_validator
from pydantic_core import CoreSchema

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.units import plain_number, seconds, write_seconds

_MOST_NODES = 100_000


class _Written(SpecModel):
    """A model that YAML writes as a scalar."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _from_scalar(cls, given: Any) -> Any:
        return cls._read(str(given)) if isinstance(given, str | int) and not isinstance(given, bool) else given

    @model_serializer
    def _to_scalar(self) -> str | int:
        return int(self.written) if self.written.isdecimal() else self.written

    @property
    def written(self) -> str:
        """The word that YAML holds."""
        raise NotImplementedError

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"description": " ".join((cls.__doc__ or "").split()), **cls._schema()}


class Length(_Written):
    """A length of training: `10 epochs`, `500 steps` or `100000 samples`."""

    epochs: float | None = Field(None, le=10**6)
    """Passes over the first corpus."""
    steps: int | None = Field(None, le=10**9)
    """Updates of the weights."""
    samples: int | None = Field(None, le=10**15)
    """Images drawn."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) +epochs?|(\d+) +(step|sample)s?", given)
        if found is None:
            raise ValueError(f"{given!r} is no length; write '10 epochs', '500 steps' or '100000 samples'")
        return {"epochs": float(found[1])} if found[1] else {f"{found[3]}s": int(found[2])}

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(\d+(\.\d+)? +epochs?|\d+ +(steps?|samples?))$"}

    @property
    def written(self) -> str:
        """As in `10 epochs`."""
        if self.steps is not None:
            return f"{self.steps} steps"
        return f"{self.samples} samples" if self.samples is not None else f"{plain_number(self.epochs or 0.0)} epochs"

    def in_steps(self, *, batch: int, epoch_steps: float) -> int:
        """Whole steps of this length, rounded; `epoch_steps` is the steps an epoch of the first corpus takes."""
        if self.steps is not None:
            return self.steps
        return round(self.samples / batch if self.samples is not None else (self.epochs or 0) * epoch_steps)


class Interval(_Written):
    """An interval of saving: `auto`, `500 steps` or a duration such as `30 min`."""

    steps: int | None = Field(None, gt=0, le=10**9)
    """Steps between two saves."""
    seconds: float | None = Field(None, gt=0)
    """Seconds between two saves. Neither steps nor seconds: `auto`."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        if given == "auto":
            return {}
        found = re.fullmatch(r"(\d+) +steps?", given)
        if not found and not re.fullmatch(r"\d+(\.\d+)?\s*(s|min|h|d)", given):
            raise ValueError(f"{given!r} is no interval; write auto, '500 steps', or a duration such as '30 min'")
        read: dict[str, Any] = {"steps": int(found[1])} if found else {"seconds": seconds(given)}
        if 0 in read.values():
            raise ValueError(f"{given!r} never passes; write an interval above 0")
        return read

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^(auto|\d+ +steps?|\d+(\.\d+)?\s*(s|min|h|d))$"}

    @property
    def written(self) -> str:
        """As in `500 steps`, `1800 s` or `auto`."""
        if self.steps is not None:
            return f"{self.steps} steps"
        return "auto" if self.seconds is None else write_seconds(self.seconds)


class NodeRange(_Written):
    """A number of nodes, or a range such as `2..16`."""

    least: int = Field(gt=0)
    """Fewest nodes it starts on."""
    most: int = Field(gt=0)
    """Most nodes it uses."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", given)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 0 < least <= most <= _MOST_NODES:
            rule = f"write a number from 1 to {_MOST_NODES:,}, or a range such as 2..16"
            raise ValueError(f"{given!r} is no range of nodes; {rule}")
        return {"least": least, "most": most}

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        return {"type": ["string", "integer"], "pattern": r"^[1-9]\d*(\.\.[1-9]\d*)?$", "minimum": 1}

    @property
    def written(self) -> str:
        """As in `2` or `2..16`."""
        return f"{self.least}" if self.least == self.most else f"{self.least}..{self.most}"
