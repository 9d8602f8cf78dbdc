"""Lines of logs and metrics reach the run root whole, whatever the store does meanwhile."""

import logging

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.train.ranks.log_upload import Parts, PartsHandler
from tests.unit.run.memory import MemoryStore


def test_while_the_store_fails_lines_are_held_and_go_into_the_next_part():
    full = [True]

    def before(method, name):
        if method == "put" and full:
            raise StorageError("disk full")

    store = MemoryStore(before=before)
    parts = Parts(store, "attempts/0001/rank-00000", "log")
    logger = logging.Logger("rank")
    logger.addHandler(PartsHandler(parts))
    for word in ("first", "second"):
        logger.warning(word)
        with pytest.raises(StorageError):
            parts.publish()
    full.clear()
    parts.publish(), parts.publish()
    assert store.objects == {"attempts/0001/rank-00000-000000.log": b"first\nsecond\n"}
