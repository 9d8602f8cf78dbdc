"""Values that users write as one word: durations, sizes, lengths of training, intervals, ranges of nodes, locations."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    PlainSerializer,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema

from gmml_cluster.spec.base import Refused, SpecModel

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):/")
_BEGINNINGS = ("file://", "s3://")  # of the stores of `gmml_cluster.store.open`
_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_MOST = 10**18
_MOST_NODES = 100_000
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")
VARIABLE = re.compile(r"\$\w+|\$\{\w+\}")
"""What a shell would expand."""


def _parse(value: Any, units: dict[str, int], example: str) -> float:
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        known = ", ".join(units)
        raise Refused(f"{value!r} lacks a unit", f"write a number and one of {known}, as in '{example}'")
    number = float(found[1]) * units[found[2]]
    if number > _MOST:
        raise Refused(f"{value[:20]!r} is too large", f"write a smaller quantity, such as '{example}'")
    return number


def seconds(value: Any) -> float:
    """Seconds of a written duration such as `90 min`."""
    return _parse(value, _SECONDS, "30 min")


def size_bytes(value: Any) -> int:
    """Bytes of a written size such as `4 GiB`."""
    return round(_parse(value, _BYTES, "4 GiB"))


def plain_number(number: float) -> str:
    """A number in digits without an exponent, exact; a whole one without a point."""
    text = f"{Decimal(repr(number)):f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def write_seconds(number: float) -> str:
    """A duration that `seconds` reads back."""
    return f"{plain_number(number)} s"


def write_bytes(number: int) -> str:
    """A size that `size_bytes` reads back."""
    return f"{number} B"


def _pattern(units: dict[str, int]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^\d+(\.\d+)?\s*({'|'.join(units)})$"})


Duration = Annotated[float, BeforeValidator(seconds), PlainSerializer(write_seconds, str), _pattern(_SECONDS)]
Size = Annotated[int, BeforeValidator(size_bytes), PlainSerializer(write_bytes, str), _pattern(_BYTES)]


def check_location(given: str) -> str:
    """A path or URL as it was written.

    Raises:
        Refused: it is empty, or names a variable of a shell, which nothing would expand, or a store that this version
            has not.
    """
    if not given:
        raise Refused("an empty location; it would mean the current folder", "write . for that")
    if found := VARIABLE.search(given):
        raise Refused(f"{found[0]} in {given!r} would be taken literally", "write the path itself")
    scheme = _SCHEME.match(given)
    if scheme and not given.startswith(_BEGINNINGS):
        hint = "write a folder, or s3://BUCKET/PREFIX"
        raise Refused(f"{given!r} names a store {scheme[1]!r}, which this version does not have", hint)
    if given.startswith("s3://") and not given[5:].partition("/")[0]:
        raise Refused(f"{given!r} names no bucket", "write s3://BUCKET/PREFIX")
    return given


Location = Annotated[str, AfterValidator(check_location)]
"""A path or URL."""


class _Written(SpecModel):
    """A model that YAML writes as one word."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        raise NotImplementedError

    @model_validator(mode="before")
    @classmethod
    def _from_scalar(cls, given: Any) -> Any:
        if isinstance(given, dict | cls):
            return given
        if isinstance(given, bool | None):
            return cls._read({None: "null", True: "true", False: "false"}[given])
        return cls._read(str(list(given) if isinstance(given, tuple) else given))

    @model_serializer
    def _to_scalar(self) -> str | int:
        return int(self.written) if self.written.isdecimal() else self.written

    @property
    def written(self) -> str:
        """The word in YAML."""
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
            raise Refused(f"{given!r} is no length", "write '10 epochs', '500 steps' or '100000 samples'")
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
            raise Refused(f"{given!r} is no interval", "write auto, '500 steps', or a duration such as '30 min'")
        read: dict[str, Any] = {"steps": int(found[1])} if found else {"seconds": seconds(given)}
        if 0 in read.values():
            raise Refused(f"{given!r} never passes", "write an interval above 0")
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


class Price(_Written):
    """A price, such as `2.50 EUR`."""

    amount: float = Field(ge=0, le=10**6, examples=[2.5])
    """How much."""
    currency: str = Field(pattern=r"^[A-Z]{3}$", examples=["EUR"])
    """Code of three capital letters."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+(?:\.\d+)?) +([A-Z]{3})", given)
        if found is None:
            raise Refused(f"{given!r} is no price", "write a number and a currency, as in '2.50 EUR'")
        return {"amount": float(found[1]), "currency": found[2]}

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        return {"type": "string", "pattern": r"^\d+(\.\d+)? +[A-Z]{3}$"}

    @property
    def written(self) -> str:
        """As in `2.5 EUR`."""
        return f"{plain_number(self.amount)} {self.currency}"


class NodeRange(_Written):
    """A number of nodes, or a range such as `2..16`."""

    least: int = Field(gt=0, examples=[1])
    """Fewest nodes it starts on."""
    most: int = Field(gt=0, examples=[4])
    """Most nodes it uses."""

    @classmethod
    def _read(cls, given: str) -> dict[str, Any]:
        found = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", given)
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 0 < least <= most <= _MOST_NODES:
            pair = re.fullmatch(r"\[?(\d+)(?:, *| *- *)(\d+)\]?", given)
            example = f"a number from 1 to {_MOST_NODES:,}, or a range such as 2..16"
            raise Refused(f"{given!r} is no range of nodes", f"write {f'{pair[1]}..{pair[2]}' if pair else example}")
        return {"least": least, "most": most}

    @classmethod
    def _schema(cls) -> dict[str, Any]:
        return {"type": ["string", "integer"], "pattern": r"^[1-9]\d*(\.\.[1-9]\d*)?$", "minimum": 1}

    @property
    def written(self) -> str:
        """As in `2` or `2..16`."""
        return f"{self.least}" if self.least == self.most else f"{self.least}..{self.most}"
