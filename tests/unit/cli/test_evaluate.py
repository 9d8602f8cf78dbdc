"""`gmml eval`: what is refused before a run is looked for, and what the processes that score are asked."""

from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from gmml_cluster.cli import evaluate
from gmml_cluster.cli.evaluate import command
from gmml_cluster.errors import SpecError


@pytest.mark.parametrize("asked", ["attentive,foo", ""])
def test_an_unknown_score_is_refused_before_anything_is_trained(asked):
    with pytest.raises(
        SpecError, match=r"is no score; write knn, linear, patch-knn, attentive, finetune, segmentation"
    ):
        CliRunner().invoke(command, ["run", "--with", asked], catch_exceptions=False)


@pytest.mark.parametrize("more", [[], ["--classes", "3", "--feature", "mean"]])
def test_scores_of_pixels_are_told_the_classes_and_read_patches(more):
    with pytest.raises(SpecError, match=r"--with: patch-knn; they read patch tokens and masks; give --classes, and no"):
        CliRunner().invoke(command, ["run", "--with", "patch-knn", *more], catch_exceptions=False)


@pytest.mark.parametrize(
    ("asked", "calls"),
    [
        (["knn,linear", "--feature", "mean", "--step", "0"],
         [("gmml_cluster.evaluate", "--step 0 --feature mean --with knn,linear")]),
        (["linear,patch-knn", "--classes", "3"],
         [("gmml_cluster.evaluate.patch_knn", "--classes 3"), ("gmml_cluster.evaluate", "--with linear")]),
        (["patch-knn", "--classes", "3", "--untrained", "--zero-ignored"],
         [("gmml_cluster.evaluate.patch_knn", "--untrained --classes 3 --zero-ignored")]),
    ],
)  # fmt: skip
def test_each_score_is_asked_of_the_module_that_makes_it(asked, calls, monkeypatch):
    run = SimpleNamespace(root="/runs", name="a", job=lambda _: SimpleNamespace(method=SimpleNamespace(name="mae")))
    made = []
    monkeypatch.setattr("gmml_cluster.launch.runs.find.find", lambda name, root: run)
    monkeypatch.setattr("gmml_cluster.launch.code.installed_code", lambda method: SimpleNamespace(digest="d"))
    monkeypatch.setattr(evaluate, "run_module", lambda module, words, **_: made.append((module, list(words))) or 0)
    CliRunner().invoke(command, ["a", "--with", *asked], catch_exceptions=False)
    assert made == [(module, f"--root /runs --run a --code d {words}".split()) for module, words in calls]
