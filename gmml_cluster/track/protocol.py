"""What a tracker does, and what it learns of the run."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_NOT_CURVES = ("step", "time", "attempt")


@dataclass(frozen=True)
class Tracked:
    """The run whose curves are passed on.

    Attributes:
        token: the run's own, for ever the same.
        url: where it lies.
        folder: the run root where that is a folder; empty where it is an object store.
        spec: every field of its job.
    """

    name: str
    token: str
    url: str
    folder: str
    spec: Mapping[str, Any]


class Tracker(Protocol):
    """One way out for curves. Its calls may raise anything; the lines of a call that raised are sent again."""

    def send(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Pass on the figures of some steps, rising, none of which was passed on before but for a call that raised."""

    def close(self, *, finished: bool) -> None:
        """Nothing more comes from this process; `finished` says whether the run is complete."""


def curves(line: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Names and values of a metric line that are curves."""
    for name, value in line.items():
        if name not in _NOT_CURVES and isinstance(value, int | float) and not isinstance(value, bool):
            yield name, float(value)


def flat(spec: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted fields and values of a spec, lists by their numbers."""
    for name, value in spec.items():
        inside = dict(enumerate(value)) if isinstance(value, list | tuple) else value
        if isinstance(inside, Mapping) and inside:
            yield from flat({str(key): item for key, item in inside.items()}, f"{above}{name}.")
        else:
            yield f"{above}{name}", value
