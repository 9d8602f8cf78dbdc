"""The store on a real S3 server: the same promises as on a folder, and what is lost on the way to it."""

import multiprocessing
import re
import socket
import time

import pytest

from gmml_cluster.errors import PreflightError, StorageError
from gmml_cluster.store import requests, s3
from gmml_cluster.store.open import open_store
from gmml_cluster.store.probe import probe
from gmml_cluster.store.protocol import AlreadyExists, NotFound
from tests.fixtures.proxy import Proxy, Rule


@pytest.fixture(params=["s3_server", "moto_server"])
def server(request, monkeypatch):
    """Each of two servers, by the environment of this test."""
    server = request.getfixturevalue(request.param)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def url(server):
    return f"s3://{server.make_bucket()}"


@pytest.fixture
def store(url):
    return open_store(url).child("runs")


@pytest.fixture
def proxied(server, url, monkeypatch):
    with Proxy(server.endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy, open_store(url)


def test_a_good_store_passes_the_probe_and_keeps_nothing_of_it(store):
    probe(store)
    assert store.list_objects() == []


def test_a_store_that_lets_an_object_be_created_twice_is_refused_by_name(bad_s3_server, monkeypatch):
    for name, value in bad_s3_server.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{bad_s3_server.make_bucket()}"
    with pytest.raises(PreflightError, match=f"{re.escape(url)}: .*created again.*If-None-Match.*use a folder"):
        probe(open_store(url))
    assert open_store(url).list_objects() == []


def test_wrong_credentials_are_reported_with_the_missing_right(s3_url, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(PreflightError, match=f"{s3_url}: cannot create: .*credentials"):
        probe(open_store(s3_url))


def test_a_bucket_that_does_not_exist_is_named(s3_url):
    with pytest.raises(PreflightError, match="no-such-bucket"):
        probe(open_store("s3://no-such-bucket"))


def test_a_server_that_never_answered_is_given_up_early(s3_url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr(requests, "FIRST_DEADLINE_S", 0.5)
    with pytest.raises(StorageError, match=r"no answer.*AWS_ENDPOINT_URL"):
        open_store(s3_url).get("a")


def test_objects_are_written_read_listed_and_deleted(store):
    store.put("a/b", memoryview(b"0123456789"))
    store.put("a-c", b"x")
    store.put("a/empty", b"")
    assert store.get("a/b") == b"0123456789"
    assert store.get("a/b", 2, 3) == b"234"
    assert store.get("a/b", 8) == store.get("a/b", 8, 100) == b"89"
    assert store.get("a/b", 10, 5) == store.get("a/empty") == b""
    assert [found.name for found in store.list_objects()] == ["a-c", "a/b", "a/empty"]
    assert [found.name for found in store.child("a").list_objects("e")] == ["empty"]
    assert store.folders() == ["a"]
    assert store.stat("a/b") == store.list_objects("a/b")[0]
    store.delete(["a/b", "a/b", "never"])
    with pytest.raises(NotFound):
        store.get("a/b")
    with pytest.raises(NotFound):
        store.stat("a/b")


def test_the_version_changes_with_the_content(store):
    store.put("a", b"1")
    before = store.stat("a").version
    store.put("a", b"2")
    assert store.stat("a").version != before


def test_large_puts_go_in_parts_and_come_back_whole(store, tmp_path, monkeypatch):
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", 2**20)
    monkeypatch.setattr(s3, "PART_BYTES", 5 * 2**20)
    data = bytes(range(256)) * (12 * 2**12) + b"tail"
    (tmp_path / "file").write_bytes(data)
    store.put("memory", memoryview(data))
    store.put_file("file", tmp_path / "file")
    assert store.get("memory") == store.get("file") == data


def test_create_once(store):
    store.create("log/0", b"mine")
    with pytest.raises(AlreadyExists):
        store.create("log/0", b"yours")
    assert store.get("log/0") == b"mine"


@pytest.mark.parametrize("kind", ["drop_response", "503", "409", "500", "reset", "bad_digest"])
def test_a_create_whose_reply_is_lost_or_refused_for_now_counts_as_ours(proxied, kind):
    proxy, store = proxied
    proxy.rules.append(Rule(kind, "PUT", "/slot$"))
    store.create("slot", b"mine")
    assert store.get("slot") == b"mine"
    assert next(what for method, _, what in proxy.seen if method == "PUT") == kind


def test_a_create_whose_reply_is_lost_is_read_back(proxied):
    proxy, store = proxied
    proxy.rules.append(Rule("drop_response", "PUT", "/slot$"))
    store.create("slot", b"mine")
    assert [method for method, _, _ in proxy.seen][-1] == "GET"


def test_a_create_that_lost_while_its_reply_was_lost_says_so(proxied):
    proxy, store = proxied
    store.create("slot", b"theirs")
    proxy.rules.append(Rule("drop_response", "PUT", "/slot$"))
    with pytest.raises(AlreadyExists):
        store.create("slot", b"mine")


def test_every_other_request_is_tried_again(proxied):
    proxy, store = proxied
    for method, path in (("PUT", "/a$"), ("GET", "/a$"), ("HEAD", "/a$"), ("GET", "list-type"), ("POST", "delete")):
        proxy.rules += [Rule("503", method, path), Rule("reset", method, path)]
    store.put("a", b"1")
    assert store.get("a") == b"1"
    assert store.stat("a").size == 1
    assert len(store.list_objects()) == 1
    store.delete(["a"])
    assert store.list_objects() == []
    assert all(rule.times == 0 for rule in proxy.rules)


@pytest.mark.parametrize("kind", ["drop_response", "lost_upload", "500", "reset"])
def test_a_put_in_parts_survives_what_happens_to_its_completion(proxied, monkeypatch, kind):
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", 2**20)
    proxy, store = proxied
    data = bytes(range(256)) * 2**13
    store.put("a", data[::-1])
    proxy.rules.append(Rule(kind, "POST", "/a.uploadId="))
    store.put("a", data)
    assert proxy.rules[-1].times == 0
    assert store.get("a") == data
    assert store.unfinished() == []


def test_credentials_that_expire_are_read_again_where_someone_renews_them(moto_server, monkeypatch, renew_key):
    renew_key("OLD")
    with Proxy(moto_server.endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(f"s3://{moto_server.make_bucket()}")
        store.put("a", b"1")
        proxy.rules.append(Rule("expired", "GET", "/a$", times=99, head="Credential=OLD/"))
        renew_key("NEW")
        assert store.get("a") == b"1"
        assert proxy.rules[0].times == 98, "the first answer that credentials have expired is believed"


def test_credentials_that_stay_expired_are_named(s3_server, s3_url, monkeypatch):
    monkeypatch.setattr(requests, "DEADLINE_S", 1.0)
    with Proxy(s3_server.endpoint).running() as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        store = open_store(s3_url)
        store.put("a", b"1")
        proxy.rules.append(Rule("expired", "GET", "/a$", times=99))
        with pytest.raises(StorageError, match=r"/a: the credentials have expired \(ExpiredToken\)"):
            store.get("a")


def test_a_name_that_does_not_resolve_for_a_while_ends_nothing(server, url, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint.replace("127.0.0.1", "localhost"))
    store, resolve, failures = open_store(url), socket.getaddrinfo, []
    store.put("a", b"before")

    def unresolved(host, *rest, **options):
        if host == "localhost" and len(failures) < 3:
            failures.append(host)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return resolve(host, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", unresolved)
    afresh = open_store(url)  # a client with no connection yet that it could use again
    afresh._requests._answered = True
    afresh.put("a", b"after")
    assert (store.get("a"), len(failures)) == (b"after", 3)


def test_a_forked_child_uses_connections_of_its_own(store):
    store.put("a", b"parent")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=lambda: store.put("b", store.get("a")))
    child.start()
    child.join(240)
    assert child.exitcode == 0
    assert store.get("b") == b"parent"


def test_uploads_that_a_killed_writer_left_are_listed_and_discarded(store):
    for name in ("checkpoints/1/a", "other"):
        store._requests.send("create_multipart_upload", **store._target(name))
    assert store.list_objects() == []
    (write,) = store.unfinished("checkpoints/")
    assert write.name == "checkpoints/1/a"
    assert 0 < write.since < time.time() + 3600  # of moto it is a constant
    store.discard([write, write])
    assert [left.name for left in store.unfinished()] == ["other"]


def test_a_put_in_parts_that_fails_is_reported_although_it_cannot_be_taken_back(store, monkeypatch, caplog):
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", 2**20)
    send = store._requests.send

    def failing(method, **arguments):
        if method in ("upload_part", "abort_multipart_upload"):
            raise PermissionError(f"{method} refused")
        return send(method, **arguments)

    monkeypatch.setattr(store._requests, "send", failing)
    with pytest.raises(StorageError, match="upload_part refused"):
        store.put("a", bytes(2**21))
    assert "abort_multipart_upload refused" in caplog.text
