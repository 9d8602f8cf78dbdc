"""Which parts of a job decide what is computed. Works on dumped specs, without pydantic.

A run is its identity: submitting a name again with the same identity resumes it, with another is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]
SECTIONS = ("seed", "init", "model", "method", "data", "optim")
FIELDS = ("batch.size", "engine.precision")


def identity(spec: Spec) -> str:
    """SHA-256 of what decides what is computed, as hexadecimal digits.

    Counted are seed, model, method, data, optim, batch.size, engine.precision, and init where there is one; and run,
    unless `optim.schedule.samples` fixes the schedule apart from it.
    """
    text = json.dumps(_identifying(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Spec, new: Spec) -> list[str]:
    """Dotted fields that make `new` another run than `old`.

    Where the schedule has a length of its own `run` may grow: it is listed only if it shrinks or changes its unit.
    """
    found = _differing(_identifying(old), _identifying(new))
    return found if "run" in _identifying(old) or _has_grown(old["run"], new["run"]) else [*found, "run"]


def changeable(old: Spec, new: Spec) -> dict[str, list[Any]]:
    """Of each dotted field outside the identity that differs, the old and the new value."""
    before, after = _leaves(old), _leaves(new)
    fixed = {*_leaves(_identifying(old)), *_leaves(_identifying(new)), "name"}
    names = [name for name in _differing(old, new) if name not in fixed]
    return {name: [before.get(name), after.get(name)] for name in names}


def _identifying(spec: Spec) -> dict[str, Any]:
    kept = {name: spec[name] for name in SECTIONS if spec.get(name) is not None}
    for field in FIELDS:
        section, name = field.split(".")
        kept[section] = {name: spec[section][name]}
    if spec["optim"]["schedule"]["samples"] is None:
        kept["run"] = spec["run"]
    return kept


def _has_grown(old: Spec, new: Spec) -> bool:
    """Whether a length of the run is the same or more, in the same unit."""
    units = [{name for name, length in run.items() if length is not None} for run in (old, new)]
    return units[0] == units[1] and all(new[name] >= old[name] for name in units[0])


def _differing(old: Spec, new: Spec) -> list[str]:
    before, after = _leaves(old), _leaves(new)
    names = [*before, *(name for name in after if name not in before)]
    return [name for name in names if name not in before or name not in after or before[name] != after[name]]


def _leaves(value: Any, above: str = "") -> dict[str, Any]:
    """Dotted names to values; lists of mappings are entered, other lists are values."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, Mapping):
        return {above: value}
    inside = [_leaves(child, f"{above}.{name}" if above else name) for name, child in value.items()]
    return {name: leaf for leaves in inside for name, leaf in leaves.items()}
