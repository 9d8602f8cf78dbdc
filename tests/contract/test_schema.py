"""The JSON Schemas of job files and profiles: committed, and true to what the loader takes.

After a change on purpose: `gmml schema job > docs/schema/job.schema.json`, and `cluster` for `profile.schema.json`.
"""

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.loading.validate import dump, load_job, load_profile, parse_job
from gmml_cluster.spec.loading.yaml import read_yaml
from gmml_cluster.spec.schema import job_schema, profile_schema

ROOT = Path(__file__).parents[2]
KINDS = {"job": (job_schema, ROOT / "jobs"), "profile": (profile_schema, ROOT / "clusters")}
JOB = {
    "name": "x",
    "model": {"size": "tiny", "patch_size": 4},
    "method": {"name": "gmml"},
    "data": {"corpora": [{"url": "x"}], "image_size": 32},
    "batch": {"size": 64},
    "run": {"steps": 10},
}
PROFILE = {"launcher": "slurm", "root": "r"}


def lists(value):
    if isinstance(value, dict):
        return {name: lists(child) for name, child in value.items()}
    return [lists(child) for child in value] if isinstance(value, tuple) else value


def valid(schema, document):
    return Draft202012Validator(schema).is_valid(document)


def laid(base, field, value):
    made = json.loads(json.dumps(base))
    *path, last = field.split(".")
    inner = made
    for part in path:
        inner = inner.setdefault(part, {})
    inner[last] = value
    return made


@pytest.mark.parametrize("kind", KINDS)
def test_the_committed_schema_is_the_models(kind):
    committed = json.loads((ROOT / "docs" / "schema" / f"{kind}.schema.json").read_text())
    assert committed == KINDS[kind][0](), "the public surface changed; see the top of this file"


@pytest.mark.parametrize("kind", KINDS)
def test_the_schema_is_a_schema(kind):
    Draft202012Validator.check_schema(KINDS[kind][0]())


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_that_ships_is_valid(kind):
    schema, folder = KINDS[kind]
    files = sorted(folder.glob("*.yaml"))
    assert files
    for file in files:
        document = lists(read_yaml(file.read_text(), file.name, []).plain())
        assert list(Draft202012Validator(schema()).iter_errors(document)) == [], file.name


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optim.schedule", {"warmup": "10 epochs"}),
        ("optim.schedule", {"warmup": "1 step"}),
        ("checkpoint", {"every": "30 min"}),
        ("checkpoint", {"every": "500 steps"}),
        ("checkpoint", {"every": "auto"}),
        ("resources", {"nodes": "2..4"}),
        ("resources", {"nodes": 3}),
        ("data.augment", "mae"),
        ("data.augment", {"flip": True}),
        ("data.normalise", "half"),
        ("data.group", "auto"),
        ("data.group", 16),
        ("batch.micro", 8),
        ("optim", {"clip": None}),
        ("engine", {"zero": "ddp"}),
        ("engine", {"zero": 3}),
        ("engine", {"zero": "auto"}),
        ("method.taps", [3, 12]),
        ("method.align", "patch"),
        ("method", {"name": "mae", "mask_ratio": 0.5}),
        ("model", {"width": 64, "depth": 2, "heads": 2, "patch_size": 4}),
    ],
)
def test_written_values_are_taken_by_schema_and_loader_alike(field, value):
    document = laid(JOB, field, value)
    assert valid(job_schema(), document)
    assert parse_job({**document, "method": {**document["method"], "taps": None}} if field == "model" else document)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("optim.schedule", {"warmup": "10"}),
        ("optim.schedule", {"warmup": 10}),
        ("checkpoint", {"every": 30}),
        ("resources", {"nodes": "2.."}),
        ("resources", {"nodes": 0}),
        ("data.augment", "strong"),
        ("data.group", "many"),
        ("data.group", 0),
        ("batch.size", 1.5),
        ("engine", {"zero": 4}),
        ("method.name", "mea"),
        ("method.nois", 1),
        ("method", {"views": 1}),
        ("model", {"width": 64}),
        ("foo", 1),
        ("name", "Bad Name"),
        ("data.corpora", []),
        ("data.corpora", [{"weight": 1}]),
        ("optim", {"lr": "1e-4"}),
        ("engine", {"deterministic": "yes"}),
        ("batch", {}),
    ],
)
def test_bad_values_are_refused_by_schema_and_loader_alike(field, value):
    document = laid(JOB, field, value)
    assert not valid(job_schema(), document)
    with pytest.raises(SpecError):
        parse_job(document)


@pytest.mark.parametrize(
    "section", [{"time": "90 min"}, {"memory_per_node": "1.5 GiB"}, {"sbatch_args": {"nice": "1", "exclusive": True}}]
)
def test_written_values_of_profiles_are_taken(section):
    assert valid(profile_schema(), {**PROFILE, "slurm": section})


@pytest.mark.parametrize("section", [{"time": "90"}, {"time": 90}, {"memory_per_node": "1.5 G"}, {"gpus": 1}])
def test_bad_values_of_profiles_are_refused(section):
    assert not valid(profile_schema(), {**PROFILE, "slurm": section})


@pytest.mark.parametrize("name", JOB)
def test_a_section_may_be_left_out_only_by_a_file_that_extends_another(name):
    document = {key: value for key, value in JOB.items() if key != name}
    assert not valid(job_schema(), document)
    assert valid(job_schema(), {"extends": "base.yaml", **document})


@pytest.mark.parametrize(
    "part",
    [{"data": {"image_size": 16}}, {"model": {"drop_path": 0.1}}, {"method": {"mask_ratio": 0.5}}, {"batch": {}}],
)
def test_a_file_that_extends_another_may_give_part_of_a_section(part):
    assert valid(job_schema(), {"extends": "base.yaml", **part})
    assert not valid(job_schema(), {"extends": "base.yaml", "nonsense": 1, **part})


def test_what_is_dumped_is_valid():
    for file in sorted((ROOT / "jobs").glob("*.yaml")):
        assert valid(job_schema(), dump(load_job(file))), file.name
    for file in sorted((ROOT / "clusters").glob("*.yaml")):
        assert valid(profile_schema(), dump(load_profile(file))), file.name


def test_every_property_is_described():
    def bare(schema, above=""):
        for name, property_schema in schema.get("properties", {}).items():
            if "description" not in property_schema:
                yield f"{above}.{name}"
        for name, definition in schema.get("$defs", {}).items():
            yield from bare(definition, name)

    assert [name for kind in KINDS for name in bare(KINDS[kind][0]())] == []
