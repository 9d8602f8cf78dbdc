"""Quantities with written units: `12 h`, `30 min`, `4 GiB`, `500 steps`, `2..16`."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, WithJsonSchema

_SECONDS = {"s": 1, "min": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def _parse(value: Any, units: dict[str, int], example: str) -> float:
    found = _QUANTITY.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None or found[2] not in units:
        known = ", ".join(units)
        raise ValueError(f"{value!r} has no known unit; write a number and one of {known}, as in '{example}'")
    return float(found[1]) * units[found[2]]


def seconds(value: Any) -> float:
    """Seconds of a written duration such as `90 min`; a float that is already seconds passes."""
    return value if type(value) is float else _parse(value, _SECONDS, "30 min")


def size_bytes(value: Any) -> int:
    """Bytes of a written size such as `4 GiB`; an int that is already bytes passes."""
    return value if type(value) is int else round(_parse(value, _BYTES, "4 GiB"))


Duration = Annotated[
    float, BeforeValidator(seconds), WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(s|min|h|d)$"})
]
Size = Annotated[
    int,
    BeforeValidator(size_bytes),
    WithJsonSchema({"type": "string", "pattern": r"^\d+(\.\d+)?\s*(B|KiB|MiB|GiB|TiB|kB|MB|GB)$"}),
]
