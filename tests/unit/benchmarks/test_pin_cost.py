"""How many requests a pin takes of an object store: listings by the page, and one object for all indexes."""

import asyncio
import threading

import pytest

from benchmarks.pin_cost import PAGE, Listed, make_folder
from benchmarks.slow_store import answering
from gmml_cluster.data.corpus.pin import CorpusUrl, pin
from gmml_cluster.store.posix import PosixStore

SHARDS = 700  # with as many indexes beside them, two pages


@pytest.fixture
def listed(monkeypatch):
    """The store of the benchmark, in a thread; the heads of the requests that it got."""
    loop, ports, heads = asyncio.new_event_loop(), [], []
    server = Listed(SHARDS)

    def answer(head):
        heads.append(head)
        return server.answer(head)

    ready = threading.Event()

    async def start():
        made = await asyncio.start_server(answering(answer), "127.0.0.1", 0)
        ports.append(made.sockets[0].getsockname()[1])
        ready.set()

    def run():
        loop.run_until_complete(start())
        loop.run_forever()

    threading.Thread(target=run, daemon=True).start()
    assert ready.wait(240)
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}",
        "AWS_ACCESS_KEY_ID": "k",
        "AWS_SECRET_ACCESS_KEY": "s",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    yield heads
    loop.call_soon_threadsafe(loop.stop)


def test_a_pin_of_an_object_store_takes_a_request_a_page_and_one_for_all_indexes(listed, tmp_path):
    found = pin([CorpusUrl("s3://corpus")], PosixStore(tmp_path))
    assert len(found.files) == SHARDS
    assert len(listed) == -(-2 * SHARDS // PAGE) + 1


def test_the_folder_of_the_benchmark_is_pinned_without_a_look_at_an_index(tmp_path):
    make_folder(tmp_path / "corpus", 100)  # whose indexes are empty files, which nobody can read
    assert pin([CorpusUrl(str(tmp_path / "corpus"))], PosixStore(tmp_path / "indexes")).shapes[0].samples == 400
