"""Numbers with their nouns."""

import pytest

from gmml_cluster.wording import counted


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 shards"), (1, "1 shard"), (2, "2 shards"), (1200, "1,200 shards")]
)
def test_one_is_singular(number, words):
    assert counted(number, "shard") == words
