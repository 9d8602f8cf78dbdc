"""docs/outputs.md lists the fields that are printed, and no others."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from gmml_cluster.cli import order, outcome
from gmml_cluster.cli import submit as gmml_submit
from gmml_cluster.launch.submit import Outcome, prepare
from gmml_cluster.plan.plan import Plan
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import status
from gmml_cluster.run.root import run_root

PAGE = (Path(__file__).parents[2] / "docs" / "outputs.md").read_text()
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
    return outcome.document(Outcome(run_root(str(folder), "x"), "submitted", "1", {}))


def of_dry_run(folder):
    (folder / "job.yaml").write_text(JOB)
    (folder / "here.yaml").write_text("{launcher: local, root: runs, ranks_per_node: 2}")
    return gmml_submit.document(prepare("job.yaml", cluster="./here.yaml"))


def of_order(folder):
    return ("version", *order._COLUMNS)


def of_status(folder):
    return {"run": "x", "root": "r", **status(History(), {})}


@pytest.mark.parametrize(
    ("section", "printed"),
    [
        ("`gmml-submit JOB --json`", of_submit),
        ("`gmml-submit JOB --dry-run --json`", of_dry_run),
        ("The plan", lambda folder: [field.name for field in fields(Plan)]),
        ("`gmml status [RUN] --json`", of_status),
        ("`gmml order JOB --json`", of_order),
    ],
)
def test_the_documented_fields_are_those_printed(tmp_path, monkeypatch, section, printed):
    monkeypatch.chdir(tmp_path)
    assert sorted(documented(section)) == sorted(printed(tmp_path))
