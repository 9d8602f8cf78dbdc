"""Quantities with written units: `12 h`, `30 min`, `4 GiB`, `500 steps`, `2..16`."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_MOST = 10**18
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def _parse(value: Any, units: dict[str, int], example: str) -> float:
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        known = ", ".join(units)
        raise ValueError(f"{value!r} lacks a unit; write a number and one of {known}, as in '{example}'")
    number = float(found[1]) * units[found[2]]
    if number > _MOST:
        raise ValueError(f"{value[:20]!r} is beyond all use; write a smaller quantity, such as '{example}'")
    return number


def seconds(value: Any) -> float:
    """Seconds of a written duration such as `90 min`."""
    return _parse(value, _SECONDS, "30 min")


def size_bytes(value: Any) -> int:
    """Bytes of a written size such as `4 GiB`."""
    return round(_parse(value, _BYTES, "4 GiB"))


def _pattern(units: dict[str, int]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": rf"^\d+(\.\d+)?\s*({'|'.join(units)})$"})


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


Duration = Annotated[float, BeforeValidator(seconds), PlainSerializer(write_seconds, str), _pattern(_SECONDS)]
Size = Annotated[int, BeforeValidator(size_bytes), PlainSerializer(write_bytes, str), _pattern(_BYTES)]
