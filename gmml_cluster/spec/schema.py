"""JSON Schemas of job files and cluster profiles, for editors: what may be written, not what is filled in."""

from typing import Any

from pydantic import BaseModel

from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS = {"type": "string", "description": "File that this one extends, relative to it; mappings merge."}
_ITEMS = ("CorpusSpec",)
"""Items of lists: each is written in full, since lists are replaced and not merged."""


def job_schema() -> dict[str, Any]:
    """Schema of a job file."""
    return _schema(JobSpec, "gmml_cluster job")


def profile_schema() -> dict[str, Any]:
    """Schema of a cluster profile."""
    return _schema(ClusterProfile, "gmml_cluster cluster profile")


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The model's schema with `extends`; a file that extends another may leave out what that one has."""
    schema = model.model_json_schema(mode="validation")
    whole = _needs(schema)
    sections = {name: _section_needs(section, schema["$defs"]) for name, section in schema["properties"].items()}
    whole["properties"] = {name: needs for name, needs in sections.items() if needs}
    for name, definition in schema["$defs"].items():
        if name not in _ITEMS:
            _needs(definition)
    schema["properties"] = {"extends": _EXTENDS, **schema["properties"]}
    alone = {"not": {"required": ["extends"]}}
    return {"$schema": DIALECT, **schema, "title": title, "if": alone, "then": whole}


def _needs(schema: dict[str, Any]) -> dict[str, Any]:
    """The required fields, taken out of a schema."""
    return {key: schema.pop(key) for key in ("required", "anyOf") if key in schema and "properties" in schema}


def _section_needs(section: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any]:
    """The required fields of a section, taken out of its definition; of a choice of methods, its name."""
    if "oneOf" in section:
        section["anyOf"] = section.pop("oneOf")
        del section["discriminator"]
        return {"required": ["name"]}
    return _needs(definitions[section["$ref"].rpartition("/")[2]]) if "$ref" in section else {}
