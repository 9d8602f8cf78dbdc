"""Small jobs and settings for the tests of methods."""

from typing import Any

from gmml_cluster.methods.protocol import Setting
from gmml_cluster.spec.job import JobSpec


def job(
    method: dict[str, Any], *, image_size: int = 16, model: dict[str, Any] | None = None, **changes: Any
) -> JobSpec:
    """A job of a small model."""
    shape = {"width": 16, "depth": 4, "heads": 2, "patch_size": 4, **(model or {})}
    corpora = [{"url": "nowhere"}]
    return JobSpec.model_validate(
        {
            "name": "small",
            "seed": 3,
            "model": shape,
            "method": method,
            "data": {"corpora": corpora, "image_size": image_size, "group": 4},
            "batch": {"size": 8},
            "run": {"steps": 1},
            **changes,
        }
    )


def setting(method: dict[str, Any], **changes: Any) -> Setting:
    """The setting of such a job."""
    return Setting.of(job(method, **changes))
