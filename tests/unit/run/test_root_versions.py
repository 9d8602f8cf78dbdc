"""A run of another version of gmml_cluster is read, or refused with the file and both versions."""

import pytest

from gmml_cluster import __version__
from gmml_cluster.errors import SpecError
from gmml_cluster.run.root import create_run

SPEC = b"""
name: a
model: {width: 32, depth: 2, heads: 2, patch_size: 4}
method: {name: mae, decoder_width: 32, decoder_depth: 1, decoder_heads: 2}
data: {corpora: [{url: /corpus, samples: 6400}], image_size: 32, group: 8}
batch: {size: 64}
run: {steps: 10}
"""
BOTH = f"submitted with gmml_cluster 9.0, this is {__version__}; use the one that submitted it"


def run_of(tmp_path, spec=SPEC):
    return create_run(str(tmp_path), "a", {"spec.yaml": spec}, {"versions": {"gmml_cluster": "9.0"}})


def test_changes_of_a_submit_hold(tmp_path):
    assert run_of(tmp_path).job({"checkpoint.keep": [3, 7]}).checkpoint.keep == 7


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"magic.wand.length": [1, 2]}, "magic.wand.length"), ({"batch.size.odd": [1, 2]}, "batch.size.odd")],
)
def test_a_change_of_a_field_that_is_unknown_here_is_reported(tmp_path, changed, field):
    with pytest.raises(SpecError, match=f"{tmp_path}/a/spec.yaml: {field}: .*a submit.*{BOTH}"):
        run_of(tmp_path).job(changed)


def test_a_key_that_is_unknown_here_is_reported_with_the_file(tmp_path):
    with pytest.raises(SpecError, match=f"{tmp_path}/a/spec.yaml: .*magic: unknown key.*{BOTH}"):
        run_of(tmp_path, SPEC + b"magic: 1\n").job({})


def test_a_run_root_of_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gmml_cluster.run.root.VERSION", 7)
    run = run_of(tmp_path)
    monkeypatch.undo()
    with pytest.raises(SpecError, match=f"{tmp_path}/a/run.json: version 7; 1 is known here; .*{BOTH}"):
        run.job({})
