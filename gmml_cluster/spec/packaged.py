"""Where the files that come with the package lie; imports no pydantic."""

from pathlib import Path

import gmml_cluster


def packaged(folder: str) -> list[Path]:
    """Folders of the package's own `jobs` or `clusters`: in an installed package, or beside it in a checkout."""
    package = Path(gmml_cluster.__file__).parent
    return [each for each in (package / folder, package.parent / folder) if each.is_dir()]


def job_schema_file() -> Path:
    """The JSON Schema of job files: in an installed package, or in the documentation of a checkout."""
    package = Path(gmml_cluster.__file__).parent
    installed = package / "schema" / "job.schema.json"
    return installed if installed.exists() else package.parent / "docs" / "schema" / "job.schema.json"
