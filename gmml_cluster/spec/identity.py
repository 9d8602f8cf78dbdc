"""Which parts of a job decide what is computed. Works on dumped specs, without pydantic.

A run is its identity: submitting a name again with the same identity resumes it, with another is refused.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

Spec = Mapping[str, Any]
Changes = dict[str, list[Any]]
"""Dotted field -> [old value, new value]."""
SECTIONS = ("seed", "init", "model", "method", "auxiliary", "data", "optim")
FIELDS = ("batch.size", "engine.precision")
FREE_DATA = ("read_ahead",)
"""Fields of `data` that say how corpora are read and change nothing that is computed."""
_LATER_FIELDS = {"image": None, "refuse_damaged": False}
"""Fields of a corpus that the first version did not have, with the value that means what it did."""
_FILE_OF_INIT = ("url", "sha256")
"""Fields of `init` that came later; they are null where it names a run."""

_LATER_ENCODER = "rotary"
"""Field of a classifier's `encoder` that came later; null where it is not asked for."""


def identity(spec: Spec) -> str:
    """SHA-256 of the fields that decide what is computed, as hexadecimal digits.

    They are seed, model, method, data, optim, batch.size, engine.precision, and init and auxiliary where there are any;
    and run, unless `optim.schedule.samples` fixes the schedule apart from it. The `samples` of a corpus only help to
    plan: what is computed follows from the corpus itself, which the first attempt pins.
    """
    text = json.dumps(_identifying(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Spec, new: Spec) -> Changes:
    """Fields that make `new` another run than `old`.

    With `optim.schedule.samples` the run may grow: `run` is listed only if it shrinks or changes its unit.
    """
    found = differing(_identifying(old), _identifying(new))
    has_run = "run" in _identifying(old) or _has_grown(old["run"], new["run"])
    return found if has_run else {**found, **differing({"run": old["run"]}, {"run": new["run"]})}


def changeable(old: Spec, new: Spec) -> Changes:
    """Fields outside the identity that differ."""
    fixed = {*differing(_identifying(old), _identifying(new)), "name"}
    return {name: values for name, values in differing(old, new).items() if name not in fixed}


def _identifying(spec: Spec) -> dict[str, Any]:
    kept = {name: spec[name] for name in SECTIONS if spec.get(name) is not None}
    if "init" in kept:
        init: Spec = kept["init"]
        kept["init"] = {name: init[name] for name in init if name not in _FILE_OF_INIT or init[name] is not None}
    if kept["method"].get("encoder"):
        encoder: Spec = kept["method"]["encoder"]
        encoder = {name: encoder[name] for name in encoder if name != _LATER_ENCODER or encoder[name] is not None}
        kept["method"] = {**kept["method"], "encoder": encoder}
    data = {name: value for name, value in spec["data"].items() if name not in FREE_DATA}
    kept["data"] = {**data, "corpora": [_deciding(corpus) for corpus in spec["data"]["corpora"]]}
    for field in FIELDS:
        section, name = field.split(".")
        kept[section] = {name: spec[section][name]}
    if spec["optim"]["schedule"]["samples"] is None:
        kept["run"] = spec["run"]
    return kept


def _deciding(corpus: Spec) -> dict[str, Any]:
    """A corpus without what only helps to plan, and without later fields where they change nothing.

    So a run that began before a field existed keeps its identity.
    """
    kept = {name: value for name, value in corpus.items() if name != "samples"}
    return {name: value for name, value in kept.items() if name not in _LATER_FIELDS or value != _LATER_FIELDS[name]}


def _has_grown(old: Spec, new: Spec) -> bool:
    """Whether the length of the run is the same or more, in the same unit."""
    units = [{name for name, length in run.items() if length is not None} for run in (old, new)]
    return units[0] == units[1] and all(new[name] >= old[name] for name in units[0])


def differing(old: Any, new: Any, above: str = "") -> Changes:
    """The shortest dotted names that differ; of another method its name alone, as its options are other ones.

    Args:
        above: dotted name of the two values; empty for whole specs.
    """
    if old == new:
        return {}
    if above == "method" and old["name"] != new["name"]:
        return {"method.name": [old["name"], new["name"]]}
    inside = [_named(old), _named(new)]
    if None in inside:
        return {above: [old, new]}
    before, after = (each or {} for each in inside)
    found: Changes = {}
    for name in dict.fromkeys([*before, *after]):
        found |= differing(before.get(name), after.get(name), f"{above}.{name}" if above else name)
    return found


def _named(value: Any) -> Spec | None:
    """The members of a mapping or of a list of mappings, by name; None for a value."""
    if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
        return {str(index): item for index, item in enumerate(value)}
    return value if isinstance(value, Mapping) else None
