"""What to write instead: hints for unknown keys, missing fields, and values where a mapping belongs."""

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.loading.compose import OVERRIDE
from gmml_cluster.spec.loading.yaml import Path, Tree, dotted, flow, walk

_ALIKE = 0.65
"""Of difflib's ratio: `ulr` and `url` have 0.67, while `depth` and `exempt` have 0.55 and mean different things."""


def unknown(path: Path, model: type[BaseModel], tree: Tree) -> tuple[Path | None, str, str]:
    """The field that an unknown key was probably meant for, the problem and the hint.

    A field that is written already is suggested, but keeps its value, which is checked as it is.
    """
    above, key = path[:-1], str(path[-1])
    known = sorted({name for owner in models_at(model, above, tree) for name in owner.model_fields})
    if (foreign := _of_another_method(path, model, tree)) is not None:
        return None, *foreign
    near = get_close_matches(key, known, n=1, cutoff=_ALIKE)
    if near:
        is_written = walk(tree, (*above, near[0])) is not None
        return None if is_written else (*above, near[0]), "unknown key", f"did you mean {near[0]!r}?"
    if takers := _methods_with(key, model) if above == ("method",) else []:
        return None, f"an option of {', '.join(takers)} alone", f"known are {', '.join(known)}"
    elsewhere = next((section for section in sections(model, key) if section != above), None)
    if elsewhere is not None:
        return None, f"unknown key; {key!r} is a field of {dotted(elsewhere) or 'the file itself'}", "move it there"
    return None, "unknown key", f"known are {', '.join(known)}"


def _of_another_method(path: Path, model: type[BaseModel], tree: Tree) -> tuple[str, str] | None:
    """Problem and hint where an override of `method.name` alone left the options of the file's method behind."""
    name, own = walk(tree, ("method", "name")), walk(tree, path)
    if path[:-1] != ("method",) or name is None or not name.where.startswith(OVERRIDE):
        return None
    if own is not None and own.where == name.where:  # one override wrote both
        return None
    others = _methods_with(str(path[-1]), model)
    if not others:
        return None
    whole = "override method={name: " + str(name.value) + "}, which replaces the method with its options"
    return f"an option of {', '.join(others)} and not of {name.value}", whole


def _methods_with(option: str, model: type[BaseModel]) -> list[Any]:
    """Names of the methods that take an option."""
    methods = models_in(model.model_fields["method"].annotation) if "method" in model.model_fields else ()
    return [tags(each)[0] for each in methods if option in each.model_fields and tags(each)]


def sections(model: type[BaseModel], key: str) -> Iterator[Path]:
    """Sections of a spec, the top among them, that have a field of this name."""
    if key in model.model_fields:
        yield ()
    for name, field in model.model_fields.items():
        if any(key in inner.model_fields for inner in models_in(field.annotation)):
            yield (name,)


def missing(path: Path, model: type[BaseModel], tree: Tree) -> str:
    """What to write for a field that is not there."""
    examples = [
        owner.model_fields[str(path[-1])].examples
        for owner in models_at(model, path[:-1], tree)
        if path[-1] in owner.model_fields
    ]
    chosen = [name for owner in models_at(model, path[:-1], tree) for name in tags(owner) if path[-1] == "name"]
    example = next((each[0] for each in examples if each), next(iter(chosen), None))
    written = f"'{path[-1]}: {'...' if example is None else flow(example)}'"
    return f"write {written}" + (f" under {dotted(path[:-1])!r}" if len(path) > 1 else "")


def mapping(path: Path, model: type[BaseModel], tree: Tree, given: Any) -> str:
    """The mapping to write where a bare value was given."""
    owners = [each for each in models_at(model, path, tree) if issubclass(each, SpecModel)]
    for owner in owners:
        fields = dict.fromkeys(owner.bare, given)
        if fields and _fits(owner, fields):
            return f"write {flow(fields)}"
    example = next((each for each in map(_example, owners) if each), None)
    return "write a mapping" + (f" such as {flow(example)}" if example else "")


def listed(path: Path, model: type[BaseModel], tree: Tree, given: Any) -> str:
    """The list to write where one value was given."""
    owners = [each for each in models_at(model, path, tree) if issubclass(each, SpecModel)]
    items = [{name: given} for owner in owners for name in owner.bare if _fits(owner, {name: given})]
    if items:
        return f"write {flow(items[:1])}"
    fields = [owner.model_fields.get(str(path[-1])) for owner in models_at(model, path[:-1], tree)]
    examples = [(field.examples or [field.default])[0] for field in fields if field is not None]
    example = next((each for each in examples if isinstance(each, list | tuple)), None)
    return "write a list" + (f" such as {flow(example)}" if example else "")


def _fits(model: type[BaseModel], fields: dict[str, Any]) -> bool:
    """Whether these fields of a model take these values; other fields may be missing."""
    try:
        model.model_validate(fields, strict=True)
    except ValidationError as error:
        return not any(each["loc"][:1] == (name,) for each in error.errors() for name in fields)
    return True


def _example(model: type[SpecModel]) -> dict[str, Any]:
    """Enough fields of a model to show the form: its tag, else those with examples, else those with single values."""
    if tags(model):
        return {"name": tags(model)[0]}
    fields = [(name, field) for name, field in model.model_fields.items() if name in (model.bare or model.model_fields)]
    examples = {name: field.examples[0] for name, field in fields if field.examples}
    return examples or {name: field.default for name, field in fields if isinstance(field.default, int | float | str)}


def models_at(model: type[BaseModel], path: Path, tree: Tree) -> Sequence[type[BaseModel]]:
    """The models whose fields may stand at a path; of a choice by name, such as `method`, the one that is named."""
    owners = [model]
    for length, part in enumerate(path, start=1):
        if isinstance(part, int):
            continue
        fields = [owner.model_fields[part] for owner in owners if part in owner.model_fields]
        owners = [each for field in fields for each in models_in(field.annotation)]
        named = walk(tree, (*path[:length], "name"))
        tagged = [owner for owner in owners if named is not None and named.value in tags(owner)]
        owners = tagged or owners
    return owners


def tags(model: type[BaseModel]) -> tuple[Any, ...]:
    """Values of `name` by which a model is chosen."""
    field = model.model_fields.get("name")
    return get_args(field.annotation) if field is not None else ()


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models in an annotation, those of unions and tuples among them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from models_in(inner)
