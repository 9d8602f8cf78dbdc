"""`gmml eval`: what is refused before a run is looked for."""

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.evaluate import command
from gmml_cluster.errors import SpecError


@pytest.mark.parametrize("asked", ["attentive,foo", ""])
def test_an_unknown_score_is_refused_before_anything_is_trained(asked):
    with pytest.raises(SpecError, match=r"is no score; write knn, linear, attentive, finetune"):
        CliRunner().invoke(command, ["run", "--with", asked], catch_exceptions=False)
