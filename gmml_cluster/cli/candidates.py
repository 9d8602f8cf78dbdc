"""What shell completion offers: runs, profiles, jobs, fields of a job. It answers while a person waits for a key.

So nothing here imports pydantic, asks a scheduler or reads an object store: runs that lie there are not offered.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem

Items = list["CompletionItem[str]"]
"""In quotes: click 8.4 has no parameter there."""
_YAML = (".yaml", ".yml")
_WORDS = {"boolean": ["true", "false"], "null": ["null"]}


def runs(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Names of runs under the known roots that are folders, or under --root."""
    from gmml_cluster.launch.runs.find import known_roots
    from gmml_cluster.run.root import NAME, RUN

    if "/" in incomplete:
        return [CompletionItem(incomplete, type="dir")]
    names = {
        entry.name
        for root in map(_folder, known_roots(context.params.get("root"), []))
        for entry in _entries(root)
        if entry.name.startswith(incomplete) and NAME.fullmatch(entry.name) and os.path.exists(f"{entry.path}/{RUN}")
    }
    return _plain(sorted(names))


def profiles(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Names of the profiles of ./clusters and of the package; files for whatever looks like a path."""
    from gmml_cluster.spec.packaged import packaged

    return _plain(_stems([Path("clusters"), *packaged("clusters")], incomplete)) or _files(incomplete)


def jobs(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Names of the package's jobs, and YAML files of this folder; files for whatever looks like a path."""
    from gmml_cluster.spec.packaged import packaged

    return _plain([*_job_files(incomplete), *_stems(packaged("jobs"), incomplete)]) or _files(incomplete)


def jobs_or_runs(context: click.Context, parameter: click.Parameter, incomplete: str) -> Items:
    """YAML files of this folder, and runs; files where neither fits."""
    return _plain(_job_files(incomplete)) + runs(context, parameter, incomplete) or _files(incomplete)


def overrides(context: click.Context, _: click.Parameter, incomplete: str) -> Items:
    """Fields of a job up to the next dot, or with `=` where a value follows; after `=` the values of a choice."""
    from gmml_cluster.spec.packaged import job_schema_file

    schema = json.loads(job_schema_file().read_text())
    name, equals, value = incomplete.partition("=")
    *above, last = name.split(".")
    fields = {field: given for field, given in _fields([schema], schema).items() if field != "extends"}
    for part in above:
        fields = _fields(fields.get(part, []), schema)
    if equals:
        chosen = _values(fields.get(last, []), schema)
        return _plain(f"{name}={each}" for each in chosen if each.startswith(value))
    found = [each for field, given in fields.items() if field.startswith(last) for each in _ends(field, given, schema)]
    return _plain(".".join([*above, each]) for each in found)


def _plain(values: "Iterator[str] | Sequence[str]") -> Items:
    return [CompletionItem(value) for value in values]


def _files(incomplete: str) -> Items:
    """Whatever files the shell itself finds."""
    return [CompletionItem(incomplete, type="file")]


def _job_files(incomplete: str) -> list[str]:
    names = (entry.name for entry in _entries("."))
    return sorted(name for name in names if name.endswith(_YAML) and name.startswith(incomplete))


def _stems(folders: Sequence[Path], incomplete: str) -> list[str]:
    """Names of the YAML files of folders, without their ending."""
    found = {Path(entry.name).stem for folder in folders for entry in _entries(folder) if entry.name.endswith(_YAML)}
    return sorted(name for name in found if name.startswith(incomplete))


def _folder(root: str) -> str:
    return root.removeprefix("file://")


def _entries(folder: str | Path) -> "list[os.DirEntry[str]]":
    """What lies in a folder; nothing of an object store, or where it cannot be read."""
    try:
        with os.scandir(folder) as found:
            return list(found)
    except OSError:
        return []


def _fields(sections: Sequence[Any], schema: Any) -> dict[str, list[Any]]:
    """The fields of sections, each with all that it may be: a section of a choice has those of every choice."""
    found: dict[str, list[Any]] = {}
    for section in (each for given in sections for each in _branches(given, schema)):
        for name, field in section.get("properties", {}).items():
            found.setdefault(name, []).append(field)
    return found


def _branches(given: Any, schema: Any) -> Iterator[Any]:
    """A schema and what it refers to or chooses from."""
    yield given
    if "$ref" in given:
        yield from _branches(schema["$defs"][given["$ref"].rpartition("/")[2]], schema)
    for inner in [*given.get("anyOf", []), *given.get("oneOf", [])]:
        yield from _branches(inner, schema)


def _values(field: Sequence[Any], schema: Any) -> list[str]:
    """What a choice may be, as YAML; none for a number or a text."""
    found: dict[str, None] = {}
    for each in _alternatives(field, schema):
        listed = each.get("enum", [each["const"]] if "const" in each else _WORDS.get(str(each.get("type")), []))
        found |= dict.fromkeys(value if isinstance(value, str) else json.dumps(value) for value in listed)
    return list(found)


def _alternatives(field: Sequence[Any], schema: Any) -> Iterator[Any]:
    return (branch for given in field for branch in _branches(given, schema))


def _ends(name: str, field: Sequence[Any], schema: Any) -> Iterator[str]:
    """`name.` of a section, `name=` of what takes a value; both where a word or null may stand for a section."""
    is_section = bool(_fields(field, schema))
    if is_section:
        yield f"{name}."
    kinds = [each for each in _alternatives(field, schema) if {"type", "enum", "const"} & each.keys()]
    if not is_section or any(each.get("type") != "object" for each in kinds):
        yield f"{name}="
