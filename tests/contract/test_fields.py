"""The page of fields is the models', and what it points to works."""

from pathlib import Path

from pydantic import BaseModel

from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.fields import page
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.hints import models_in

ROOT = Path(__file__).parents[2]


def fields(model: type[BaseModel], above: str = "") -> set[str]:
    found = set()
    for name, field in model.model_fields.items():
        path = f"{above}.{name}" if above else name
        inner = [each for each in models_in(field.annotation) if not hasattr(each, "written")]
        found |= {path}.union(*(fields(each, path) for each in inner))
    return found


def test_the_page_of_fields_is_made_from_the_models():
    committed = (ROOT / "docs" / "fields.md").read_text()
    assert committed == page(), "a field changed: python -m gmml_cluster.spec.fields > docs/fields.md"


def test_every_field_has_a_row_with_a_type_and_a_meaning():
    rows = [line.strip("|").split(" | ") for line in page().splitlines() if line.startswith("| `")]
    assert {row[0].strip(" `") for row in rows} == fields(JobSpec) | fields(ClusterProfile)
    assert [row[0] for row in rows if not all(cell.strip(" |") for cell in row)] == []
