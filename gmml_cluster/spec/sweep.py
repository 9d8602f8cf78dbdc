"""Sweeps: the runs that one job and several values of some of its fields make, and how they are named."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from gmml_cluster.errors import Fault, SpecError

MOST = 1000
"""Runs of one sweep: more is most likely a mistake, and more than SLURM takes as one array by default."""
_LONGEST = 63
_DIGITS = 8
_EXAMPLE = "write FIELD=VALUE,VALUE, such as optim.lr=1e-4,3e-4"
_OPENING, _CLOSING, _QUOTES = "[{", "]}", "\"'"
_SPEAKS_FOR_ITSELF = re.compile(r"[a-z][a-z0-9._-]*")
_STATES = ("true", "false", "null", "none", "on", "off", "yes", "no", "auto")
"""Words that say nothing without the name of their field."""


@dataclass(frozen=True)
class Axis:
    """A field that is swept, and its values as they were written."""

    field: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class SweepMember:
    """One run of a sweep: its name, and the overrides that make it, in the order of the axes."""

    name: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class Grid:
    """A sweep's own name, unlike any of its runs', and its runs: of the last axis the value changes first."""

    name: str
    members: tuple[SweepMember, ...]


def read_axes(given: Sequence[str], overrides: Sequence[str] = ()) -> tuple[Axis, ...]:
    """The axes of `FIELD=VALUE,VALUE` each; commas within brackets or quotes belong to a value.

    Args:
        given: as written after `--sweep`.
        overrides: of all runs; neither a swept field nor one within it can be among them.

    Raises:
        SpecError: all that is wrong with them.
    """
    faults: list[Fault] = []
    axes = [axis for text in given if (axis := _axis(text, faults)) is not None]
    fields = Counter(axis.field for axis in axes)
    faults += [
        Fault(f"--sweep {field}", "is swept twice", "give all its values at once")
        for field, times in fields.items()
        if times > 1
    ]
    fixed = dict.fromkeys(text.partition("=")[0] for text in overrides)
    faults += [
        Fault(f"--sweep {field}", "is overridden as well", f"remove {field}=... or the sweep")
        for field in fields
        if field in fixed
    ]
    faults += [
        Fault(f"--sweep {field}", f"would undo {other}=...", f"write {other} into each value, or sweep single fields")
        for field in fields
        for other in fixed
        if other.startswith(f"{field}.")
    ]
    runs = 1
    for axis in axes:
        runs *= len(axis.values)
    if runs > MOST:
        faults.append(Fault("--sweep", f"makes {runs:,} runs; {MOST:,} at most", "sweep fewer values at once"))
    if faults:
        raise SpecError(faults)
    return tuple(axes)


def _axis(text: str, faults: list[Fault]) -> Axis | None:
    field, equals, written = text.partition("=")
    where = f"--sweep {field}"
    values = tuple(value.strip() for value in split(written))
    if not equals or not all(field.split(".")):
        faults.append(Fault(f"--sweep {text}", "is no field with values", _EXAMPLE))
    elif field == "name":
        faults.append(Fault(where, "runs are named by what differs", "sweep another field; name=... names the sweep"))
    elif not all(values):
        faults.append(Fault(where, f"{written!r} lacks a value", _EXAMPLE))
    elif twice := [value for value, times in Counter(values).items() if times > 1]:
        faults.append(Fault(where, f"has {twice[0]!r} twice", "remove one: equal runs compute the same"))
    else:
        return Axis(field, values)
    return None


def split(written: str) -> list[str]:
    """Values between commas that are in no bracket and in no quotes."""
    values, depth, quote = [""], 0, ""
    for character in written:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and not values[-1].strip():
            quote = character
        else:
            depth += (character in _OPENING) - (character in _CLOSING)
        if character == "," and not quote and depth <= 0:
            values.append("")
        else:
            values[-1] += character
    return values


def grid(base: str, axes: Sequence[Axis]) -> Grid:
    """All combinations, each named after `base` by what differs: `quickstart-lr1e-4-mae`.

    A name is a function of the run's own values: it stays when values or runs are added, unless another run would
    have the same. Then both end with digits of their overrides, and so does a name that would be too long.

    Args:
        base: the job's name.
        axes: at least one.
    """
    labels = _labels([axis.field for axis in axes])
    rows = []
    for values in product(*(axis.values for axis in axes)):
        parts = [_part(label, value) for label, value in zip(labels, values, strict=True)]
        overrides = tuple(f"{axis.field}={value}" for axis, value in zip(axes, values, strict=True))
        rows.append(("-".join([base, *parts]), overrides))
    wanted = Counter(name for name, _ in rows)
    members = [
        SweepMember(_fitted(name, overrides, is_taken=wanted[name] > 1 or name == base), overrides)
        for name, overrides in rows
    ]
    return Grid(_fitted("-".join([base, *map(_slug, labels)]), [axis.field for axis in axes]), tuple(members))


def _labels(fields: Sequence[str]) -> list[str]:
    """The shortest end of each field's path that no other has; `method.name` is `method`."""
    paths = [_named(field) for field in fields]

    def end(path: tuple[str, ...], length: int) -> str:
        return "-".join(path[-length:])

    labels = []
    for path in paths:
        others = [other for other in paths if other != path]
        length = next(
            (n for n in range(1, len(path)) if all(end(other, n) != end(path, n) for other in others)), len(path)
        )
        labels.append(end(path, length))
    return labels


def _named(field: str) -> tuple[str, ...]:
    path = tuple(field.split("."))
    return path[:-1] if len(path) > 1 and path[-1] == "name" else path


def _part(label: str, value: str) -> str:
    """What a value adds to a name: a word alone, anything else behind its field."""
    word = _slug(value)
    if word in _STATES:
        return f"{_slug(label)}-{word}"
    return word if _SPEAKS_FOR_ITSELF.fullmatch(word) else f"{_slug(label)}{word}"


def _slug(text: str) -> str:
    """In characters that a run's name may have."""
    return re.sub(r"[^a-z0-9._]+", "-", text.lower().replace("+", "")).strip("-._") or "x"


def _fitted(name: str, overrides: Sequence[str], *, is_taken: bool = False) -> str:
    if len(name) <= _LONGEST and not is_taken:
        return name
    digits = hashlib.sha256("\n".join(overrides).encode()).hexdigest()[:_DIGITS]
    return f"{name[: _LONGEST - _DIGITS - 1].rstrip('-._')}-{digits}"
