"""Documents have the fields of their schemas, and no others; docs/log.md has those of the log."""

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from gmml_cluster.cli import dry_run, submit_report
from gmml_cluster.evaluate.see import __main__ as see
from gmml_cluster.evaluate.see import look
from gmml_cluster.launch import drill, notify
from gmml_cluster.launch.prepare import prepare
from gmml_cluster.launch.runs.status import statuses
from gmml_cluster.launch.submit import Submitted
from gmml_cluster.launch.sweep import prepare_sweep
from gmml_cluster.run import maps, protocol
from gmml_cluster.run.ends import consequences
from gmml_cluster.run.ends.causes import CAUSES
from gmml_cluster.run.entries import Kind
from gmml_cluster.run.events import Event
from gmml_cluster.run.root import create_run, run_root
from gmml_cluster.spec.loading.validate import parse_job
from tests.fixtures.outputs import checked, strict
from tests.unit.train.test_loop import Engine, train

DOCS = Path(__file__).parents[2] / "docs"
LOG = (DOCS / "log.md").read_text()
JOB = """
name: x
model: {width: 32, depth: 2, heads: 2, patch_size: 4}
method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}
data: {corpora: [{url: corpus, samples: 6400}], image_size: 32}
batch: {size: 64}
run: {steps: 10}
"""


def of_submit(folder):
    return submit_report.document(Submitted(run_root(str(folder), "x"), "submitted", "1", {}))


def of_dry_run(folder):
    (folder / "job.yaml").write_text(JOB)
    (folder / "here.yaml").write_text(yaml.safe_dump({"launcher": "local", "root": "runs", "ranks_per_node": 2}))
    return dry_run.document(prepare("job.yaml", cluster="./here.yaml"))


def of_sweep_dry_run(folder):
    (folder / "job.yaml").write_text(JOB)
    slurm = {"gpus_per_node": 8, "gpu_memory": "80 GiB"}
    profile = {"launcher": "slurm", "root": str(folder / "runs"), "slurm": slurm, "price_per_gpu_hour": "2.50 EUR"}
    (folder / "there.yaml").write_text(yaml.safe_dump(profile))
    return dry_run.sweep_document(prepare_sweep("job.yaml", ["batch.size=64,128"], cluster="./there.yaml"))


def of_see(folder):
    return see.document(look.Look(parse_job(yaml.safe_load(JOB)), 10, [], []), None)


def of_metrics(folder):
    (line,) = train(Engine(), total=1)[3]
    assert line["two"] == 2  # a mean of the stand-in's own
    return {"version": 1, **line}


def of_status(folder):
    run = create_run(str(folder), "x", {}, {"spec": "0", "code": "0", "versions": {}})
    return statuses([run]).documents[0]


def of_message(folder):
    run = create_run(str(folder), "x", {}, {"spec": "0", "code": "0", "versions": {}})
    return notify.document(run, run.log.refresh(), Event("finished", 3, 0.0, "x has finished", 1))


def of_drill(folder):
    return drill.document(drill.Drilled("kill", "x-drill", "", ["killed", "finished"], 10, 40.0, 28.0, True))


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("submit", of_submit),
        ("dry-run", of_dry_run),
        ("sweep-dry-run", of_sweep_dry_run),
        ("status", of_status),
        ("see", of_see),
        ("metrics", of_metrics),
        ("notify", of_message),
        ("drill", of_drill),
    ],
)
def test_a_document_is_valid_and_has_no_field_that_its_schema_lacks(tmp_path, monkeypatch, name, printed):
    monkeypatch.chdir(tmp_path)
    checked(name, json.dumps(printed(tmp_path)))


def test_a_metric_line_lacks_no_field_and_has_only_its_methods_beside_them(tmp_path):
    described = strict("metrics").schema["properties"]
    assert set(of_metrics(tmp_path)) == {*described, "two"}


def test_a_field_that_is_not_described_is_found(tmp_path):
    with pytest.raises(AssertionError, match="surplus"):
        checked("submit", json.dumps({**of_submit(tmp_path), "surplus": 1}))


def test_the_hours_and_the_price_of_a_sweep_are_those_of_its_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = of_sweep_dry_run(tmp_path)
    hours = [run["plan"]["gpu_time"]["hours"] for run in found["runs"]]
    assert found["gpu_hours"] == pytest.approx(sum(hours))
    assert found["cost"] == {"amount": pytest.approx(2.5 * sum(hours)), "currency": "EUR"}


@pytest.fixture
def entries(tmp_path):
    """The log of a run that saw everything: at least one entry of each kind, with all fields that it may have."""
    versions = {"gmml_cluster": "0", "python": "3"}
    run = create_run(str(tmp_path), "x", {}, {"spec": "0", "code": "0", "versions": versions})
    log, details = (
        run.log,
        {"step": 1, "message": "m", "rank": 0, "host": "h", "skipped": [], "proof": "p", "node": "n"},
    )
    submit = protocol.submit(log, launcher="local", code="0", bounds={})
    protocol.start_failed(log, submit, message="m", rank=0, host="h")
    protocol.queued(log, submit, "1")
    for restart in range(2):
        number = protocol.claim(log, submit=submit, job="1", restart=restart, topology={}, machine={}).attempt
        protocol.begin(log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
        protocol.pin(log, number, {"corpora": "0", "layout": {}, "steps": 9, "decoder": "d"})
        protocol.repin(log, number, "1", 2)
        protocol.commit(log, number, step=1, manifest="m", size=1, seconds=0.0)
        of = log.refresh().commits[-1]
        maps.record_maps(log, number, step=2 + restart, of=of, manifest="m", size=1, blocks=1, seconds=0.0)
        protocol.drop(log, number, log.refresh().commits[-1])
        protocol.end(log, number, "lost", **details)
        protocol.resolve_cause(log, number, "killed", "p", node="n")
        consequences.draw(log, submit)
    protocol.score(log, "evaluations/1.json", "d", step=1, scores=[], attempt=number, seconds=1.0)
    protocol.stop(log, "cancelled")
    return [entry.document() for entry in log.read()]


def test_the_log_documents_every_kind_cause_and_field(entries):
    head = re.findall(r"^\| `(\w+)` \|", LOG.split("\n## Slots")[1].split("\n## ")[0], re.MULTILINE)
    kinds = dict(re.findall(r"^\| `(\w+)` \| (.*) \|", LOG.split("\n## Kinds")[1].split("\n## ")[0], re.MULTILINE))
    assert sorted(kinds) == sorted(get_args(Kind)) == sorted({entry["kind"] for entry in entries})
    assert set(re.findall(r"`(\w+)`", LOG.split("\nCauses: ")[1].split(". ")[0])) == set(CAUSES)
    for entry in entries:
        assert list(entry)[: len(head)] == head
        unknown = set(entry) - set(head) - set(re.findall(r"`(\w+)`", kinds[entry["kind"]]))
        assert not unknown, f"{entry['kind']}: {unknown}"
