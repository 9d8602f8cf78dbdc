"""Ranges of objects on real S3 servers, read by obstore where it can and by s3fs where it cannot."""

import logging
import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from gmml_cluster.store import requests
from gmml_cluster.store.open import open_store
from gmml_cluster.store.retries import RetriesSince
from tests.fixtures.proxy import Proxy, Rule

obstore = pytest.importorskip("obstore", reason="needs the extra s3")

DATA = bytes(range(256)) * 40
BY_OBSTORE = "(?i)user-agent: *object_store"
BY_S3FS = "(?i)user-agent: *aiobotocore"
NAMES = ["a", "deep/er/a", "with a space", "a+b=c&d", "50%25", "#1?x", "grün", "~a'(b)!*", "a:b,c;d@e$"]


@pytest.fixture(params=["s3_server", "moto_server"])
def proxied(request, monkeypatch):
    """A proxy before each of two servers, and a store behind it that holds `DATA` as `a`."""
    server = request.getfixturevalue(request.param)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    with Proxy(server.endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(f"s3://{server.make_bucket()}")
        store.put("a", DATA)
        yield proxy, store


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def count(proxy, kind="500", head=BY_OBSTORE, times=99):
    """A rule that makes requests of one client fail; what is left of its `times` says how many there were."""
    rule = Rule(kind, "GET", "/a$", times=times, head=head)
    proxy.rules.append(rule)
    return rule


@pytest.mark.parametrize("name", NAMES)
def test_objects_of_any_name_are_read_as_by_s3fs(proxied, pool, name):
    proxy, store = proxied
    store.put(name, DATA)
    proxy.rules.append(Rule("500", "GET", ".", times=99, head=BY_S3FS))
    assert pool.submit(store.get, name, 300, 500).result() == DATA[300:800]
    assert proxy.rules[0].times == 99


def test_threads_read_by_obstore_and_the_main_thread_by_s3fs(proxied, pool):
    proxy, store = proxied
    by_s3fs = count(proxy, head=BY_S3FS)
    parts = pool.map(lambda start: store.get("a", start, 100), range(0, len(DATA), 100))
    assert b"".join(parts) == DATA
    assert by_s3fs.times == 99
    by_s3fs.times, by_obstore = 0, count(proxy)
    assert store.get("a", 7, 100) == DATA[7:107]
    assert by_obstore.times == 99


def test_whole_objects_are_read_by_s3fs_which_checks_them(proxied, pool):
    proxy, store = proxied
    by_obstore = count(proxy)
    assert pool.submit(store.get, "a").result() == DATA
    assert pool.submit(store.get, "a", 100).result() == DATA[100:]
    assert by_obstore.times == 99


def test_a_range_beyond_the_end_brings_what_there_is(proxied, pool):
    _, store = proxied
    assert pool.submit(store.get, "a", len(DATA) - 10, 100).result() == DATA[-10:]
    assert pool.submit(store.get, "a", len(DATA) + 10, 100).result() == b""


@pytest.mark.parametrize("kind", ["500", "503", "reset", "truncated", "stall"])
def test_what_fails_once_is_asked_for_again_and_counted(proxied, pool, monkeypatch, kind):
    if kind == "stall":
        monkeypatch.setattr(requests, "REQUEST_S", 5.0)
    proxy, store = proxied
    count(proxy, kind, times=1)
    afresh, retries = open_store(store.url), RetriesSince()
    assert pool.submit(afresh.get, "a", 300, 500).result() == DATA[300:800]
    assert proxy.rules[0].times == 0
    assert retries.take() >= 1


def test_a_bucket_that_only_s3fs_can_read_is_left_to_it_and_said_once(proxied, pool, caplog):
    proxy, store = proxied
    by_obstore = count(proxy, "409")
    with caplog.at_level(logging.WARNING):
        for start in range(6):
            assert pool.submit(store.get, "a", start, 9).result() == DATA[start : start + 9]
    assert by_obstore.times == 96
    (said,) = [record.message for record in caplog.records if "s3fs alone" in record.message]
    assert said.startswith(f"{store.url} is read by s3fs alone")


def test_failures_that_are_not_in_a_row_leave_a_bucket_to_nobody(proxied, pool):
    proxy, store = proxied
    for start in range(6):
        rule = count(proxy, times=1)
        for _ in range(2):
            assert pool.submit(store.get, "a", start, 9).result() == DATA[start : start + 9]
        assert rule.times == 0


def test_a_forked_child_reads_without_the_threads_of_its_parent(proxied, pool):
    _, store = proxied
    assert pool.submit(store.get, "a", 1, 5).result() == DATA[1:6]
    found = []

    def read():
        thread = threading.Thread(target=lambda: found.append(store.get("a", 2, 5)))
        thread.start()
        thread.join(240)
        raise SystemExit(found != [DATA[2:7]])

    child = multiprocessing.get_context("fork").Process(target=read)
    child.start()
    child.join(300)
    assert child.exitcode == 0


def test_credentials_that_are_renewed_in_a_file_are_read_again(moto_server, monkeypatch, renew_key, pool):
    renew_key("OLD")
    with Proxy(moto_server.endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(f"s3://{moto_server.make_bucket()}")
        store.put("a", DATA)
        assert pool.submit(store.get, "a", 0, 5).result() == DATA[:5]
        expired = count(proxy, "expired", head="Credential=OLD/")
        renew_key("NEW")
        assert pool.submit(store.get, "a", 0, 5).result() == DATA[:5]
        assert expired.times == 97, "obstore's try and that of s3fs"
        by_s3fs = count(proxy, head=BY_S3FS)
        assert pool.submit(store.get, "a", 0, 5).result() == DATA[:5]
        assert (expired.times, by_s3fs.times) == (97, 99)
