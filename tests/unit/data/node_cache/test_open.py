"""The cache that the profile asks for, as a rank opens it."""

import pytest

from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.node_cache.open import open_node_cache
from gmml_cluster.data.reader.order import Order
from gmml_cluster.errors import SpecError
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.job import CorpusSpec


@pytest.fixture
def open_cache(digit_shards, monkeypatch):
    pinned = pin([CorpusSpec(url=str(digit_shards))])
    order = Order(make_layout(seed=7, batch=8, group=2, lanes=4, window=4, spans=2, corpora=pinned.shapes))

    def opened(**given):
        profile = ClusterProfile.model_validate({"launcher": "local", "root": "r", **given})
        for name, value in profile.variables.items():
            monkeypatch.setenv(name, value)
        return open_node_cache(order, pinned, ranks=2, node_ranks=range(2))

    return opened


def test_there_is_none_unless_the_profile_asks_for_one(open_cache):
    assert open_cache() is None


def test_its_folder_may_name_variables_of_the_node(open_cache, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SCRATCH", str(tmp_path))
    assert open_cache(node_cache={"folder": "$SCRATCH/cache", "limit": "1 GiB"}) is not None
    assert (tmp_path / "cache").is_dir()
    assert not caplog.records


def test_a_variable_that_the_node_does_not_have_is_named(open_cache):
    with pytest.raises(SpecError, match=r"node_cache.folder: \$NO_SUCH/cache: \$NO_SUCH is not set on this node"):
        open_cache(node_cache={"folder": "$NO_SUCH/cache", "limit": "1 GiB"})


def test_a_limit_below_what_the_ranks_have_open_is_warned_of(open_cache, tmp_path, caplog):
    assert open_cache(node_cache={"folder": str(tmp_path), "limit": "1 KiB"}) is not None
    assert "that the windows of this node's 2 ranks hold" in caplog.text
