"""`gmml eval`: what is refused before a run is looked for."""

import pytest
from click.testing import CliRunner

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
