"""Every field of job files and cluster profiles as a page: `python -m gmml_cluster.spec.fields > docs/fields.md`."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from gmml_cluster.spec.augment import AUGMENTS, NORMALISATIONS
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.yaml import flow
from gmml_cluster.spec.scalars import write_seconds

_HEAD = """\
# Fields of job files and cluster profiles

Made from the models by `python -m gmml_cluster.spec.fields`; do not edit. How files are read and planned:
[job.md](job.md). `gmml new` writes a commented job to begin with.
"""
_NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
_QUANTITIES = {
    "GiB": "size, as in `4 GiB`",
    "epochs?": "length, as in `10 epochs`",
    "auto|": "interval, as in `30 min`",
    "[A-Z]": "price, as in `2.50 EUR`",
}

Schema = dict[str, Any]


def page() -> str:
    """The whole page, in Markdown."""
    jobs, profiles = (_sections(model, title) for model, title in ((JobSpec, "Job"), (ClusterProfile, "Profile")))
    return "\n".join([_HEAD, *jobs, *profiles])


def _sections(model: type[BaseModel], title: str) -> Iterator[str]:
    schema = model.model_json_schema(mode="validation")
    yield from _table(title, "", schema, schema["$defs"])


def _table(title: str, above: str, section: Schema, models: Schema) -> Iterator[str]:
    """A table of a section's fields, then those of the sections inside it."""
    lines = [f"## {title}", "", section.get("description", ""), "", "| field | type | default | meaning |"]
    lines.append("|---|---|---|---|")
    inside: list[tuple[str, str]] = []
    for name, field in section["properties"].items():
        path = f"{above}.{name}" if above else name
        found = list(_sections_in(field, models))
        inside += [(path, each) for each in found]
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        lines.append(f"| `{path}` | {_type(field, models)} | {_default(name, field, section)} | {meaning} |")
    yield "\n".join([*lines, ""])
    for path, each in inside:
        choice = models[each]["properties"].get("name", {}).get("const")
        title = f"`{path}`" if choice is None else f"`{path}` with `name: {choice}`"
        yield from _table(title, path, models[each], models)


def _sections_in(field: Schema, models: Schema) -> Iterator[str]:
    """Names of the models with fields of their own that a field may hold."""
    name = field.get("$ref", "").rpartition("/")[2]
    if name and "properties" in models[name]:
        yield name
    for inner in [*field.get("anyOf", []), *field.get("oneOf", []), *([field["items"]] if "items" in field else [])]:
        yield from _sections_in(inner, models)


def _type(field: Schema, models: Schema) -> str:
    if "$ref" in field:
        name = field["$ref"].rpartition("/")[2]
        return "section" if "properties" in models[name] else _type(models[name], models)
    if "oneOf" in field:
        return f"section; `name` is one of {', '.join(f'`{name}`' for name in field['discriminator']['mapping'])}"
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(_type(inner, models) for inner in field["anyOf"]))
    if "enum" in field or "const" in field:
        return " or ".join(f"`{flow(value)}`" for value in field.get("enum", [field.get("const")]))
    if field["type"] == "array":
        items = field.get("prefixItems") or [field["items"]]
        return f"list of {f'{len(items)}: ' if 'prefixItems' in field else ''}{_type(items[0], models)}"
    if field["type"] == "object":
        return "mapping of names to text"
    return _scalar(field)


def _scalar(field: Schema) -> str:
    if isinstance(field["type"], list):
        return "number of nodes, or a range as in `2..16`"
    if "pattern" in field and field["type"] == "string":
        quantity = (text for mark, text in _QUANTITIES.items() if mark in field["pattern"])
        return next(quantity, "duration, as in `30 min`" if "min" in field["pattern"] else "text")
    bounds = [f"{bound} {flow(field[key])}" for key, bound in _BOUNDS.items() if key in field]
    return ", ".join([_NAMES[field["type"]], *bounds])


def _default(name: str, field: Schema, section: Schema) -> str:
    if name in section.get("required", []):
        return "required"
    if "default" not in field:
        return "none"
    default = field["default"]
    for preset, model in [*AUGMENTS.items(), *NORMALISATIONS.items()]:
        if default == model.model_dump(mode="json"):
            return f"`{preset}`"
    if "pattern" in field and isinstance(default, float):
        return f"`{write_seconds(default)}`"
    return "those below" if isinstance(default, dict) and default else f"`{flow(default)}`"


if __name__ == "__main__":
    print(page(), end="")
