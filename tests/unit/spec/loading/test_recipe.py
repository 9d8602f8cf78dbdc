"""A job file that leaves out optimiser and augmentation trains each method as its source does."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.augment import AUGMENTS
from gmml_cluster.spec.loading.validate import dump, load_job, parse_job
from gmml_cluster.spec.methods import registry

JOB: dict[str, Any] = {
    "name": "t",
    "model": {"width": 64, "depth": 2, "heads": 2, "patch_size": 4},
    "method": {"name": "gmml"},
    "data": {"corpora": [{"url": "x"}], "image_size": 32},
    "batch": {"size": 64},
    "run": {"steps": 100},
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(JOB))
    return file


def test_one_changed_line_brings_the_methods_own_optimiser_and_crops(path: Path) -> None:
    gmml, mae = load_job(path), load_job(path, ["method.name=mae"])
    assert (gmml.optim.lr, gmml.optim.betas, gmml.optim.clip is None) == (5e-4, (0.9, 0.999), False)
    assert (mae.optim.lr, mae.optim.betas, mae.optim.clip) == (1.5e-4, (0.9, 0.95), None)
    assert (mae.optim.weight_decay.start, mae.optim.weight_decay.end) == (0.05, 0.05)
    assert (mae.optim.schedule.law, mae.optim.schedule.final_lr) == ("fractional", 0)
    assert mae.data.augment == AUGMENTS["mae"]


def test_simmims_and_capis_schedules_are_as_released(path: Path) -> None:
    simmim, capi = (
        load_job(path, [f"method.name={name}", "data.group=8"]).optim.schedule for name in ("simmim", "capi")
    )
    assert (simmim.law, simmim.start_lr, simmim.warmup.epochs) == ("tenth", 2e-6, 10)
    assert (capi.law, capi.start_lr, capi.warmup.steps) == ("truncated", 0, 50_000)


def test_what_is_written_wins_name_by_name(path: Path) -> None:
    given = ["method.name=mae", "optim.lr=1e-3", "optim.weight_decay.end=0.2", "optim.clip={norm: 1, by: global}"]
    job = load_job(path, [*given, "data.augment=none"])
    assert (job.optim.lr, job.optim.betas) == (1e-3, (0.9, 0.95))
    assert (job.optim.weight_decay.start, job.optim.weight_decay.end) == (0.05, 0.2)
    assert job.optim.clip is not None
    assert job.data.augment == AUGMENTS["none"]


def test_a_resolved_job_is_read_back_as_it_was(path: Path) -> None:
    job = load_job(path, ["method.name=mae", "optim.betas=[0.9, 0.9]"])
    assert parse_job(dump(job)) == job


def test_a_missing_section_is_still_missing(path: Path) -> None:
    without = {name: value for name, value in JOB.items() if name != "data"}
    path.write_text(yaml.safe_dump(without))
    with pytest.raises(SpecError, match="data: missing"):
        load_job(path, ["method.name=mae"])


def test_an_unknown_method_is_the_only_fault(path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        load_job(path, ["method.name=mea"])
    assert len(caught.value.faults) == 1


@pytest.mark.parametrize("options", registry._OFFERED, ids=lambda options: options.__name__)
def test_every_recipe_names_fields_and_values_that_a_job_takes(path: Path, options: Any) -> None:
    recipe = getattr(options, "recipe", {})
    job = {**JOB, "method": {"name": "gmml"}}
    for field, value in recipe.items():
        *sections, last = field.split(".")
        inside = job
        for section in sections:
            inside[section] = dict(inside.get(section, {}))
            inside = inside[section]
        inside[last] = value
    assert parse_job(job)
