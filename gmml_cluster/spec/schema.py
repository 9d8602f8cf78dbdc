"""JSON Schemas of job files and cluster profiles, for editors: they say what may be written, not what is filled in."""

from typing import Any

from pydantic import BaseModel

from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import JobSpec

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_EXTENDS = {"type": "string", "description": "File that this one extends, relative to it; mappings merge."}


def job_schema() -> dict[str, Any]:
    """Schema of a job file."""
    return _schema(JobSpec, "gmml_cluster job")


def profile_schema() -> dict[str, Any]:
    """Schema of a cluster profile."""
    return _schema(ClusterProfile, "gmml_cluster cluster profile")


def _schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The model's schema with `extends`; a file that extends another may leave out what that one says."""
    schema = model.model_json_schema(mode="validation")
    needed = schema.pop("required")
    schema["properties"] = {"extends": _EXTENDS, **schema["properties"]}
    return {
        "$schema": _DIALECT,
        **schema,
        "title": title,
        "anyOf": [{"required": ["extends"]}, {"required": needed}],
    }
