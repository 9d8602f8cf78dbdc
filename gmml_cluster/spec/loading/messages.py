"""From pydantic's errors to faults: where the field was written, what is wrong, what to write."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gmml_cluster.errors import Fault
from gmml_cluster.spec.base import Refused
from gmml_cluster.spec.loading import hints
from gmml_cluster.spec.loading.yaml import Path, Tree, at_field, shortened, shown, walk

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_too_short": "a string that is not empty",
    "string_type": "a string (in quotes where it looks like a number)",
    "string_unicode": "a string without lone surrogates",
    "greater_than": "a number above {gt:,.12g}",
    "greater_than_equal": "a number of at least {ge:,.12g}",
    "less_than": "a number below {lt:,.12g}",
    "less_than_equal": "a number of at most {le:,.12g}",
    "multiple_of": "a multiple of {multiple_of}",
    "literal_error": "{expected}",
    "union_tag_invalid": "{expected_tags}",
    "tuple_type": "a list",
    "too_short": "a list of at least {min_length}",
    "too_long": "a list of at most {max_length}",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}
_MAPPINGS = ("model_type", "model_attributes_type")
_MISSING = ("missing", "union_tag_not_found")


@dataclass(frozen=True)
class Finding:
    """A fault and the field that it is about.

    Attributes:
        path: the field, as names and positions in lists.
        near: the field that an unknown key was probably meant for.
        is_missing: whether the field is not there at all.
    """

    path: Path
    fault: Fault
    near: Path | None = None
    is_missing: bool = False


def findings(errors: Iterable[ErrorDetails], model: type[BaseModel], tree: Tree) -> list[Finding]:
    """One finding for each field that pydantic refused, in its order; branches of a union make one together."""
    with_paths = [(_blamed(_path(model, error, tree), error), error) for error in errors]
    groups = [(path, [error for _, error in group]) for path, group in groupby(with_paths, key=lambda each: each[0])]
    return [_finding(path, group, model, tree) for path, group in groups if not _follows(path, group, groups)]


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    """Faults of files in the order of their lines, file by file as they first appear; then those of overrides."""
    listed = list(faults)
    lines = [re.match(r"(.*?):(\d+)(?::|$)", fault.where) for fault in listed]
    sources = list(dict.fromkeys(line[1] for line in lines if line))
    keys = [(sources.index(line[1]), int(line[2])) if line else (len(sources), 0) for line in lines]
    return [fault for _, fault in sorted(zip(keys, listed, strict=True), key=lambda each: each[0])]


def where(tree: Tree, path: Path) -> str:
    """Where a field was written, or else the section that it belongs in."""
    for length in range(len(path), -1, -1):
        found = walk(tree, path[:length])
        if found is not None:
            return found.where
    raise AssertionError("the empty path is always found")


def _blamed(path: Path, error: ErrorDetails) -> Path:
    """The list itself where a value of it is missing, so that a short list is one finding."""
    return path[:-1] if _lacks_value(error) else path


def _lacks_value(error: ErrorDetails) -> bool:
    """Only lists of a fixed length make such errors, one for each value that they lack."""
    return error["type"] == "missing" and isinstance(error["loc"][-1], int)


def _follows(path: Path, errors: list[ErrorDetails], groups: list[tuple[Path, list[ErrorDetails]]]) -> bool:
    """Whether a list is called short only because items in it were refused."""
    inside = any(len(other) > len(path) and other[: len(path)] == path for other, _ in groups)
    return errors[0]["type"] == "too_short" and inside


def _finding(path: Path, errors: Sequence[ErrorDetails], model: type[BaseModel], tree: Tree) -> Finding:
    first, near = errors[0], None
    if first["type"] == "extra_forbidden":
        near, problem, hint = hints.unknown(path, model, tree)
    elif _lacks_value(first):
        length = max(int(error["loc"][-1]) for error in errors) + 1
        problem, hint = f"{shown(first['input'])} is too short", f"write {length} values"
    elif first["type"] in _MISSING:
        problem, hint = "missing", hints.missing(path, model, tree)
    elif first["type"] == "value_error":
        error = first["ctx"]["error"]
        problem, hint = (error.problem, error.hint) if isinstance(error, Refused) else (str(error), "")
    else:
        problem, hint = _unfit(path, errors, model, tree)
    fault = Fault(at_field(where(tree, path), path or ("the file",)), problem, hint)
    return Finding(path, fault, near, first["type"] in _MISSING)


def _unfit(path: Path, errors: Sequence[ErrorDetails], model: type[BaseModel], tree: Tree) -> tuple[str, str]:
    first = errors[0]
    if first["type"] == "union_tag_invalid":
        names = " or ".join(first["ctx"]["expected_tags"].rsplit(", ", 1))
        return f"{first['ctx']['tag']!r} does not fit", f"write {names}"
    problem = f"{shortened(shown(first['input']))} does not fit"
    if any(error["type"] in _MAPPINGS for error in errors):
        return problem, hints.mapping(path, model, tree, first["input"])
    if first["type"] == "tuple_type":
        return problem, hints.listed(path, model, tree, first["input"])
    refused = [each["ctx"]["error"] for each in errors if each["type"] == "value_error"]
    others = dict.fromkeys(_expected(error) for error in errors if error["type"] != "value_error")
    hint = [f"write {', or '.join(others)}"] if others else []
    return problem, ", or ".join([*hint, *(each.hint if isinstance(each, Refused) else str(each) for each in refused)])


def _expected(error: ErrorDetails) -> str:
    phrase = _EXPECTED.get(error["type"])
    context: dict[str, Any] = error.get("ctx", {})
    return error["msg"] if phrase is None else phrase.format(**context)


def _path(model: type[BaseModel], error: ErrorDetails, tree: Tree) -> Path:
    """The field of an error, without the labels of union branches that pydantic puts between names."""
    path: Path = ()
    owners = [model]
    for part in error["loc"]:
        fields = [owner.model_fields[part].annotation for owner in owners if part in owner.model_fields]
        if isinstance(part, int) or fields:
            path = (*path, part)
            owners = [each for field in fields for each in hints.models_in(field)] if fields else owners
        elif walk(tree, (*path, part)) is not None:
            path, owners = (*path, part), []
    return (*path, "name") if error["type"].startswith("union_tag") else path
