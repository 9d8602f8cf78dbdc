"""What pydantic found, said to the user: where it stands, which field, what it is, and the cure."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import groupby
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from gmml_cluster.errors import Fault
from gmml_cluster.spec.loading.yaml import Path, Tree, shown, walk

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_too_short": "a word that is not empty",
    "string_type": "a word (in quotes where it looks like a number)",
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

_LATER = ("evaluate", "metrics", "notify", "retries", "engine.compile")
"""Fields of jobs that are designed and that this version has not."""


@dataclass(frozen=True)
class Finding:
    """A fault and the field that it is about.

    Attributes:
        path: the field, as names and list positions.
        near: the field that was probably meant, for an unknown key.
        is_missing: whether the field is not there at all.
    """

    path: Path
    fault: Fault
    near: Path | None = None
    is_missing: bool = False


def findings(errors: Iterable[ErrorDetails], model: type[BaseModel], tree: Tree) -> list[Finding]:
    """One finding for each field that pydantic refused, in its order; branches of a union are told as one."""
    placed = [(_path(model, error, tree), error) for error in errors]
    groups = [(path, [error for _, error in group]) for path, group in groupby(placed, key=lambda each: each[0])]
    return [_finding(path, group, model, tree) for path, group in groups if not _follows(path, group, groups)]


def _follows(path: Path, errors: list[ErrorDetails], groups: list[tuple[Path, list[ErrorDetails]]]) -> bool:
    """Whether a list is called short only because items in it were refused."""
    inside = any(len(other) > len(path) and other[: len(path)] == path for other, _ in groups)
    return errors[0]["type"] == "too_short" and inside


def dotted(path: Path) -> str:
    """A field's name as an override writes it."""
    return ".".join(map(str, path))


def where(tree: Tree, path: Path) -> str:
    """Where a field stands, or else what it would stand in."""
    for length in range(len(path), -1, -1):
        found = walk(tree, path[:length])
        if found is not None:
            return found.where
    raise AssertionError("the empty path is always found")


def _finding(path: Path, errors: Sequence[ErrorDetails], model: type[BaseModel], tree: Tree) -> Finding:
    first, near = errors[0], None
    if first["type"] == "extra_forbidden":
        near, told = _unknown(path, model, tree)
    elif first["type"] == "missing" and isinstance(last := path[-1], int):
        path, told = path[:-1], f"{shown(first['input'])} is too short; write {last + 1} values or more"
    elif first["type"] in ("missing", "union_tag_not_found"):
        told = f"missing; write {_missing(path)}"
    elif first["type"] == "value_error":
        told = str(first["ctx"]["error"])
    else:
        expected = dict.fromkeys(_expected(error) for error in errors)
        told = f"{shown(first['input'])} does not fit; write {', or '.join(expected)}"
        if first["type"] == "union_tag_invalid":
            told = f"{first['ctx']['tag']!r} does not fit; write {_any_of(first['ctx']['expected_tags'])}"
    name = dotted(path) or "the file"
    is_missing = first["type"] in ("missing", "union_tag_not_found")
    return Finding(path, Fault(where(tree, path), f"{name}: {told}"), near, is_missing)


def _expected(error: ErrorDetails) -> str:
    phrase = _EXPECTED.get(error["type"])
    return error["msg"] if phrase is None else phrase.format(**error.get("ctx", {}))


def _any_of(listed: str) -> str:
    return " or ".join(listed.rsplit(", ", 1))


def _unknown(path: Path, model: type[BaseModel], tree: Tree) -> tuple[Path | None, str]:
    if dotted(path) in _LATER:
        return None, "comes with a later version; this one would not heed it; leave it out"
    known = sorted({name for owner in _models_at(model, path[:-1], tree) for name in owner.model_fields})
    near = get_close_matches(str(path[-1]), known, n=1, cutoff=0.5)
    if near:
        return (*path[:-1], near[0]), f"unknown key; did you mean {near[0]!r}?"
    return None, f"unknown key; known are {', '.join(known)}"


def _missing(path: Path) -> str:
    return f"'{path[-1]}: ...'" + (f" under {dotted(path[:-1])!r}" if len(path) > 1 else "")


def _path(model: type[BaseModel], error: ErrorDetails, tree: Tree) -> Path:
    """The field of an error, without the labels of union branches that pydantic puts between names."""
    path: Path = ()
    owners = [model]
    for part in error["loc"]:
        fields = [owner.model_fields[part].annotation for owner in owners if part in owner.model_fields]
        if isinstance(part, int) or fields:
            path = (*path, part)
            owners = [each for field in fields for each in _models_in(field)] if fields else owners
        elif walk(tree, (*path, part)) is not None:
            path, owners = (*path, part), []
    return (*path, "name") if error["type"].startswith("union_tag") else path


def _models_at(model: type[BaseModel], path: Path, tree: Tree) -> list[type[BaseModel]]:
    """The models whose fields may stand at a path; of a tagged union only the one that is named."""
    owners = [model]
    for length, part in enumerate(path, start=1):
        if isinstance(part, int):
            continue
        owners = [each for owner in owners for each in _models_in(owner.model_fields[str(part)].annotation)]
        named = walk(tree, (*path[:length], "name"))
        tagged = [owner for owner in owners if named is not None and named.value in _tags(owner)]
        owners = tagged or owners
    return owners


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None else ()


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models_in(inner)
