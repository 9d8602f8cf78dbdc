"""docs/outputs.md, made of the schemas of what `--json` prints.

`python -m gmml_cluster.cli.output_page docs` writes it, and docs/schema/outputs/NAME.schema.json.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gmml_cluster.cli.output_schemas import OUTPUTS, output_schema
from gmml_cluster.cli.run_command import EXIT_CODES

Schema = dict[str, Any]

_HEAD = """\
# Outputs for machines

Made from the types of what is printed, by `python -m gmml_cluster.cli.output_page docs`; do not edit. How a program
uses it: [agents.md](agents.md).

Every command but `gmml completion` takes `--json`. It changes stdout alone: there is then one JSON document a line and
nothing else. What goes on, warnings, and errors for people are on stderr, as without it. A command that fails prints an
[error](#error) as its last line, on stdout too. Each document has `version`; a field that changes its meaning or goes
raises it, a new field does not, so readers pass over fields that they do not know.

`gmml schema NAME` prints the JSON Schema of a document by the name below, over several lines; all are in
`docs/schema/outputs`.

## Exit codes

| code | meaning |
|---|---|
"""
_PRINTS = {"document": "", "list": "A list in one line. ", "lines": "A line each. "}
_NAMES = {"integer": "whole number", "number": "number", "boolean": "true or false", "string": "text", "null": "null"}
_OWN_SECTIONS = ("Plan",)
"""Definitions that several documents have: each is described once, in a section of its own."""


def write(docs: Path) -> None:
    """Write the page and all schemas."""
    folder = docs / "schema" / "outputs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in OUTPUTS:
        (folder / f"{name}.schema.json").write_text(json.dumps(output_schema(name), indent=2) + "\n")
    (docs / "outputs.md").write_text(page())


def page() -> str:
    """The whole page, in Markdown."""
    codes = [f"| {code} | {text} |" for code, text in EXIT_CODES.items()]
    own = output_schema("dry-run")["$defs"]
    shared = [_section("The plan", "null: known only after indexing, unless said otherwise.", own["Plan"], own)]
    return "\n".join([_HEAD + "\n".join(codes), "", *map(_output, OUTPUTS), *shared])


def _output(name: str) -> str:
    output, schema = OUTPUTS[name], output_schema(name)
    printed = f"{', '.join(f'`{command} --json`' for command in output.commands)}. " if output.commands else ""
    text = " ".join(f"{printed}{_PRINTS[output.prints]}{schema['description']} {output.note}".split())
    return _section(f"`{name}`", text, schema, schema.get("$defs", {}))


def _section(title: str, text: str, schema: Schema, definitions: Schema) -> str:
    rows = [f"| `{path}` | {kind} | {meaning} |" for path, kind, meaning in _rows("", schema, definitions)]
    return "\n".join([f"## {title}", "", text, "", "| field | type | meaning |", "|---|---|---|", *rows, ""])


def _rows(above: str, schema: Schema, definitions: Schema) -> Iterator[tuple[str, str, str]]:
    """Path, type and meaning of each field, those of documents inside it below it."""
    for name, field in schema["properties"].items():
        path = f"{above}{name}"
        yield path, _type(field, definitions), field["description"].replace("|", "\\|")
        for inside, suffix in _documents_in(field, definitions):
            yield from _rows(f"{path}{suffix}.", inside, definitions)


def _documents_in(field: Schema, definitions: Schema, suffix: str = "") -> Iterator[tuple[Schema, str]]:
    """Documents that a field may hold, each with what leads to it: `[]` of a list."""
    name = _definition(field)
    if name is not None and name not in _OWN_SECTIONS and "properties" in definitions[name]:
        yield definitions[name], suffix
    for choice in field.get("anyOf", []):
        yield from _documents_in(choice, definitions, suffix)
    if "items" in field:
        yield from _documents_in(field["items"], definitions, f"{suffix}[]")


def _type(field: Schema, definitions: Schema) -> str:
    if "anyOf" in field:
        return " or ".join(_type(choice, definitions) for choice in field["anyOf"])
    if "enum" in field or "const" in field:
        return " or ".join(f"`{value}`" for value in field.get("enum", [field.get("const")]))
    name = _definition(field)
    if name is not None:
        own = name in _OWN_SECTIONS
        return f"[{name.lower()}](#the-{name.lower()})" if own else _type(definitions[name], definitions)
    if field.get("type") == "array":
        items = field.get("prefixItems", [field.get("items", {})])
        return f"list of {f'{len(items)}: ' if 'prefixItems' in field else ''}{_type(items[0], definitions)}"
    if field.get("type") == "object":
        return "document" if "properties" in field else "mapping"
    return _NAMES.get(field.get("type", ""), "any")


def _definition(field: Schema) -> str | None:
    return field["$ref"].rpartition("/")[2] if "$ref" in field else None


if __name__ == "__main__":
    write(Path(sys.argv[1]))
