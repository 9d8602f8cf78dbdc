"""How many requests a pin takes of an object store: listings by the page, and one object for all indexes."""

import pytest

from benchmarks.pin_cost import PAGE, Listed, make_folder
from benchmarks.slow_store import answering
from gmml_cluster.data.corpus.pin import CorpusUrl, pin
from gmml_cluster.store.posix import PosixStore
from tests.fixtures.listening import listening

SHARDS = 700  # with as many indexes beside them, two pages


@pytest.fixture
def listed(monkeypatch):
    """The store of the benchmark, in a thread; the heads of the requests that it got."""
    server, heads = Listed(SHARDS), list[str]()

    def answer(head):
        heads.append(head)
        return server.answer(head)

    with listening(answering(answer)) as port:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "k",
            "AWS_SECRET_ACCESS_KEY": "s",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        yield heads


def test_a_pin_of_an_object_store_takes_a_request_a_page_and_one_for_all_indexes(listed, tmp_path):
    found = pin([CorpusUrl("s3://corpus")], PosixStore(tmp_path))
    assert len(found.files) == SHARDS
    assert len(listed) == -(-2 * SHARDS // PAGE) + 1


def test_the_folder_of_the_benchmark_is_pinned_without_a_look_at_an_index(tmp_path):
    make_folder(tmp_path / "corpus", 100)  # whose indexes are empty files, which nobody can read
    assert pin([CorpusUrl(str(tmp_path / "corpus"))], PosixStore(tmp_path / "indexes")).shapes[0].samples == 400
