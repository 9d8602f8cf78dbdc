"""A method of another package, with a teacher: launched, resumed, moved to another ZeRO stage, scored and exported.

All through the real commands, with the very files that docs/methods.md shows.
"""

import json
import os

import pytest
import torch
from safetensors.torch import load_file

from gmml_cluster.run.root import commit_of, run_root
from gmml_cluster.train.checkpoints.read import CheckpointReader
from tests.fixtures.plugins import install
from tests.fixtures.runs import ended

METHOD = {"name": "theirs", "momentum": 0.98}
"""A teacher that still remembers its beginning after 40 steps."""
MODEL = {"width": 16, "depth": 1, "heads": 2, "patch_size": 4}
SECTIONS = {"method": METHOD, "model": MODEL, "run": {"steps": 40}}


def final_weights(workshop, run):
    """Of the latest commit, by name."""
    found = run_root(workshop.root, run)
    commit = commit_of(found, None)
    assert commit.step == 39
    reader = CheckpointReader(found.store, commit.folder, commit.manifest)
    return {name: reader.tensor(name) for name in reader.shapes}


def distance(one, other):
    return float((one - other).abs().max())


@pytest.fixture
def theirs(workshop):
    """The workshop with the package installed."""
    workshop.extra["PYTHONPATH"] = str(install(workshop.folder / "site"))
    return workshop


def calm_and_stopped(workshop, *changes):
    """Final weights of a run, and of one that was cancelled after its first commit and went on with other settings."""
    job, profile = workshop.job("calm", **SECTIONS), workshop.profile(2)
    workshop.call("gmml-submit", job, "--cluster", profile, "--follow")
    job = workshop.job("stopped", **SECTIONS)
    workshop.pace(3, after=15)
    workshop.call("gmml-submit", job, "--cluster", workshop.profile(2, environment=gates(workshop)))
    workshop.until("stopped", lambda entries: any(entry["kind"] == "commit" for entry in entries))
    workshop.call("gmml", "cancel", "stopped")
    workshop.until("stopped", ended)
    workshop.pace(0)
    workshop.call("gmml-submit", job, "--cluster", workshop.profile(2), *changes, "--follow")
    assert ended(workshop.entries("stopped"))[-1] == "finished"
    return final_weights(workshop, "calm"), final_weights(workshop, "stopped")


def gates(workshop):
    """Those of the workshop, beside the package that is on the path already."""
    path = os.pathsep.join([workshop.gates["PYTHONPATH"], workshop.extra["PYTHONPATH"]])
    return {**workshop.gates, "PYTHONPATH": path}


def losses_of(workshop, run):
    return [line["loss"] for line in workshop.lines(run)]


def test_it_resumes_to_the_bit_and_its_encoder_is_scored_and_exported(theirs):
    calm, resumed = calm_and_stopped(theirs)
    assert calm.keys() == resumed.keys()
    assert all(torch.equal(calm[name], resumed[name]) for name in calm)
    assert losses_of(theirs, "calm") == losses_of(theirs, "stopped")
    corpus = theirs.corpus.replace("train", "test")
    asked = ["--with", "knn", "--feature", "mean", "--corpus", corpus, "--json"]
    scores = json.loads(theirs.call("gmml", "eval", "calm", *asked))["scores"]
    assert {(score["score"], score["samples"]) for score in scores} == {("knn", 500)}
    folder = theirs.folder / "exported"
    theirs.call("gmml", "export", "calm", "--to", "safetensors", "-o", folder)
    exported = load_file(folder / "model.safetensors")
    assert all(torch.equal(value, calm[f"encoder.{name}"]) for name, value in exported.items())
    assert exported.keys() == {name.partition(".")[2] for name in calm if name.startswith("encoder.")}


def test_its_teacher_goes_on_at_another_stage(theirs):
    calm, resumed = calm_and_stopped(theirs, "engine.zero=3")
    losses = [losses_of(theirs, run) for run in ("calm", "stopped")]
    assert len(losses[0]) == len(losses[1]) == 40
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) < 1e-6
    assert losses[0][0] > 0
    teacher = [name for name in calm if name.startswith("teacher.")]
    assert max(distance(calm[name], calm[name.replace("teacher.", "encoder.")]) for name in teacher) > 1e-3
    assert max(distance(calm[name], resumed[name]) for name in teacher) < 1e-6


def test_without_the_package_the_job_is_refused(workshop):
    job = workshop.job("refused", **SECTIONS)
    assert workshop.call("gmml-submit", job, "--cluster", workshop.profile(2), "--dry-run", code=2) == ""
