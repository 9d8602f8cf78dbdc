"""A method of another package, with a teacher, trains through the real commands and goes on after a cancel."""

from gmml_cluster.run.root import commit_of, run_root
from gmml_cluster.train.checkpoints.read import CheckpointReader
from tests.fixtures.plugins import install
from tests.fixtures.runs import ended

METHOD = {"name": "theirs", "momentum": 0.98}
"""A teacher that still remembers its beginning after 40 steps."""


def final_weights(workshop, run):
    """Of the latest commit, by name."""
    found = run_root(workshop.root, run)
    commit = commit_of(found, None)
    assert commit.step == 39
    reader = CheckpointReader(found.store, commit.folder, commit.manifest)
    return {name: reader.tensor(name) for name in reader.shapes}


def distance(one, other):
    return float((one - other).abs().max())


def test_a_method_of_another_package_with_a_teacher_trains_and_continues_at_another_stage(workshop):
    workshop.extra["PYTHONPATH"] = str(install(workshop.folder / "site"))
    model = {"width": 16, "depth": 1, "heads": 2, "patch_size": 4}
    sections = {"method": METHOD, "model": model, "run": {"steps": 40}}
    profile = workshop.profile(2)
    workshop.call("gmml-submit", workshop.job("calm", **sections), "--cluster", profile, "--follow")
    job = workshop.job("stopped", **sections)
    workshop.call("gmml-submit", job, "--cluster", profile)
    workshop.until("stopped", lambda entries: any(entry["kind"] == "commit" for entry in entries))
    workshop.call("gmml", "cancel", "stopped")
    workshop.until("stopped", ended)
    workshop.call("gmml-submit", job, "--cluster", workshop.profile(2), "engine.zero=3", "--follow")
    assert ended(workshop.entries("stopped"))[-1] == "finished"
    losses = [[line["loss"] for line in workshop.lines(run)] for run in ("calm", "stopped")]
    assert len(losses[0]) == len(losses[1]) == 40
    assert max(abs(one - other) for one, other in zip(*losses, strict=True)) < 1e-6
    assert losses[0][0] > 0
    calm, resumed = final_weights(workshop, "calm"), final_weights(workshop, "stopped")
    teacher = [name for name in calm if name.startswith("teacher.")]
    assert max(distance(calm[name], calm[name.replace("teacher.", "encoder.")]) for name in teacher) > 1e-3
    assert max(distance(calm[name], resumed[name]) for name in teacher) < 1e-6
    del workshop.extra["PYTHONPATH"]
    refused = workshop.call("gmml-submit", job, "--cluster", profile, "--dry-run", code=2)
    assert refused == ""
