"""docs/outputs.md lists the fields that are printed, and no others; docs/log.md those of the log."""

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

import pytest
import yaml

from gmml_cluster.cli import order, submit_report
from gmml_cluster.cli import submit as gmml_submit
from gmml_cluster.evaluate.see import __main__ as see
from gmml_cluster.evaluate.see import look
from gmml_cluster.launch.prepare import prepare
from gmml_cluster.launch.status import statuses
from gmml_cluster.launch.submit import Submitted
from gmml_cluster.plan.plan import Plan
from gmml_cluster.run import consequences, maps, protocol
from gmml_cluster.run.causes import CAUSES
from gmml_cluster.run.entries import Kind
from gmml_cluster.run.root import create_run, run_root
from gmml_cluster.spec.loading.validate import parse_job
from tests.unit.train.test_loop import Engine, train

DOCS = Path(__file__).parents[2] / "docs"
PAGE, LOG = (DOCS / "outputs.md").read_text(), (DOCS / "log.md").read_text()
JOB = """
name: x
model: {width: 32, depth: 2, heads: 2, patch_size: 4}
method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}
data: {corpora: [{url: corpus, samples: 6400}], image_size: 32}
batch: {size: 64}
run: {steps: 10}
"""


def documented(section):
    body = PAGE.split(f"\n## {section}")[1].split("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", body, re.MULTILINE)


def of_submit(folder):
    return submit_report.document(Submitted(run_root(str(folder), "x"), "submitted", "1", {}))


def of_dry_run(folder):
    (folder / "job.yaml").write_text(JOB)
    (folder / "here.yaml").write_text("{launcher: local, root: runs, ranks_per_node: 2}")
    return gmml_submit.document(prepare("job.yaml", cluster="./here.yaml"))


def of_order(folder):
    return ("version", *order._COLUMNS)


def of_see(folder):
    return see.document(look.Look(parse_job(yaml.safe_load(JOB)), 10, [], []), None)


def of_metrics(folder):
    (line,) = train(Engine(), total=1)[3]
    assert line.pop("two") == 2  # a mean of the stand-in's own
    return {"version": 1, **line}


def of_status(folder):
    run = create_run(str(folder), "x", {}, {"spec": "0", "code": "0", "versions": {}})
    return statuses([run]).documents[0]


@pytest.mark.parametrize(
    ("section", "printed"),
    [
        ("`gmml-submit JOB --json`", of_submit),
        ("`gmml-submit JOB --dry-run --json`", of_dry_run),
        ("The plan", lambda folder: [field.name for field in fields(Plan)]),
        ("`gmml status [RUN] --json`", of_status),
        ("`gmml order JOB [KEY=VALUE]... --json`", of_order),
        ("`gmml see JOB [KEY=VALUE]... --json`", of_see),
        ("`gmml metrics RUN --json`", of_metrics),
    ],
)
def test_the_documented_fields_are_those_printed(tmp_path, monkeypatch, section, printed):
    monkeypatch.chdir(tmp_path)
    assert sorted(documented(section)) == sorted(printed(tmp_path))


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
