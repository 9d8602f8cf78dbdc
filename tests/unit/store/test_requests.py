"""What is retried against an object store and what is not, by a client that answers as servers in trouble do."""

import hashlib
import os

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.store import requests, s3
from gmml_cluster.store.protocol import AlreadyExists, NotFound

exceptions = pytest.importorskip("botocore.exceptions", reason="needs the extra s3")
translate = pytest.importorskip("s3fs.errors", reason="needs the extra s3").translate_boto_error


def refused(status, code):
    """As s3fs raises what a server answered."""
    answer = {"Error": {"Code": code, "Message": "injected"}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return translate(exceptions.ClientError(answer, "request"))


def unresolved():
    return exceptions.EndpointConnectionError(endpoint_url="https://store", error="Name or service not known")


class Server:
    """An object store in a dict that fails as its test asks.

    Attributes:
        failures: method -> errors to raise, in order; of a pair with "after" once the server has acted.
    """

    def __init__(self):
        self.objects, self.uploads, self.failures, self.calls = {}, {}, {}, []

    def call_s3(self, method, **arguments):
        self.calls.append(method)
        planned = self.failures.get(method) or [None]
        error = planned.pop(0)
        if isinstance(error, tuple):
            getattr(self, method)(**arguments)
            raise error[0]
        if error is not None:
            raise error
        return getattr(self, method)(**arguments)

    def put_object(self, Bucket, Key, Body, IfNoneMatch=None):
        if IfNoneMatch and Key in self.objects:
            raise refused(412, "PreconditionFailed")
        self.objects[Key] = (bytes(Body), hashlib.md5(Body).hexdigest())

    def get_object(self, Bucket, Key):
        if Key not in self.objects:
            raise refused(404, "NoSuchKey")
        return self.objects[Key][0]

    def head_object(self, Bucket, Key):
        if Key not in self.objects:
            raise refused(404, "404")
        body, etag = self.objects[Key]
        return {"ContentLength": len(body), "ETag": f'"{etag}"'}

    def create_multipart_upload(self, Bucket, Key):
        upload = str(len(self.uploads))
        self.uploads[upload] = {}
        return {"UploadId": upload}

    def upload_part(self, Bucket, Key, UploadId, PartNumber, Body):
        self._upload(UploadId)[PartNumber] = bytes(Body)
        return {"ETag": f'"{hashlib.md5(Body).hexdigest()}"'}

    def complete_multipart_upload(self, Bucket, Key, UploadId, MultipartUpload):
        parts = [self._upload(UploadId)[part["PartNumber"]] for part in MultipartUpload["Parts"]]
        digests = b"".join(hashlib.md5(part).digest() for part in parts)
        self.objects[Key] = (b"".join(parts), f"{hashlib.md5(digests).hexdigest()}-{len(parts)}")
        self.uploads[UploadId] = None

    def abort_multipart_upload(self, Bucket, Key, UploadId):
        self._upload(UploadId)
        self.uploads[UploadId] = None

    def delete_objects(self, Bucket, Delete):
        for item in Delete["Objects"]:
            self.objects.pop(item["Key"], None)
        return {}

    def _upload(self, upload):
        if self.uploads[upload] is None:
            raise refused(404, "NoSuchUpload")
        return self.uploads[upload]


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(requests, "sleep", lambda seconds: None)
    monkeypatch.setattr(s3, "SINGLE_PUT_BYTES", 10)
    monkeypatch.setattr(s3, "PART_BYTES", 4)
    return Server()


@pytest.fixture
def store(server, monkeypatch):
    store = s3.S3Store("s3://bucket/runs")
    store._requests._clients[os.getpid()] = requests._Client(server, ranges=None)
    monkeypatch.setattr(store._requests, "read", lambda **asked: server.get_object(**asked))
    return store


DAMAGED = ["BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch", "RequestTimeout"]


@pytest.mark.parametrize("code", DAMAGED)
@pytest.mark.parametrize("write", ["put", "create"])
def test_a_body_that_was_damaged_on_the_way_is_sent_again(server, store, code, write):
    server.failures["put_object"] = [refused(400, code), refused(400, code)]
    getattr(store, write)("a", b"data")
    assert server.objects["runs/a"][0] == b"data"
    assert server.calls.count("put_object") == 3


@pytest.mark.parametrize(("status", "code"), [(400, "InvalidArgument"), (403, "AccessDenied"), (501, "NotImplemented")])
def test_what_a_server_refuses_for_good_is_not_sent_again(server, store, status, code):
    server.failures["put_object"] = [refused(status, code)]
    with pytest.raises(StorageError):
        store.put("a", b"data")
    assert server.calls == ["put_object"]


@pytest.mark.parametrize("error", [unresolved(), exceptions.CredentialRetrievalError(provider="p", error_msg="m")])
def test_a_name_that_does_not_resolve_for_a_while_ends_nothing(server, store, error):
    store.put("a", b"before")
    server.failures["put_object"] = [error] * 6
    store.put("a", b"after")
    assert server.objects["runs/a"][0] == b"after"


def test_a_name_that_never_resolved_is_given_up_early(server, store, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(requests, "running_time", lambda: float(next(clock)))
    server.failures["put_object"] = [unresolved()] * 1000
    with pytest.raises(StorageError, match=r"no answer .*Could not connect.*; check AWS_ENDPOINT_URL"):
        store.put("a", b"data")
    assert len(server.calls) <= requests.FIRST_DEADLINE_S


def test_a_completion_whose_reply_was_lost_is_found_done(server, store):
    server.failures["complete_multipart_upload"] = [(TimeoutError(), "after")]
    store.put("a", b"0123456789abcdef")
    assert server.objects["runs/a"][0] == b"0123456789abcdef"
    assert (server.calls.count("create_multipart_upload"), server.calls.count("complete_multipart_upload")) == (1, 2)


def test_a_completion_whose_upload_is_gone_is_not_taken_for_the_older_object_of_that_name(server, store):
    store.put("a", b"an older object!")
    server.failures["complete_multipart_upload"] = [refused(404, "NoSuchUpload")]
    store.put("a", b"0123456789abcdef")
    assert server.objects["runs/a"][0] == b"0123456789abcdef"


@pytest.mark.parametrize(
    ("method", "error"),
    [
        ("upload_part", refused(404, "NoSuchUpload")),
        ("complete_multipart_upload", refused(400, "InvalidPart")),
        ("complete_multipart_upload", refused(404, "NoSuchUpload")),
    ],
)
def test_an_upload_that_the_server_lost_is_begun_again(server, store, method, error):
    server.failures[method] = [error]
    store.put("a", b"0123456789abcdef")
    assert server.objects["runs/a"][0] == b"0123456789abcdef"
    assert server.calls.count("create_multipart_upload") == 2


def test_an_upload_that_is_lost_every_time_is_given_up_without_parts_left(server, store):
    server.failures["complete_multipart_upload"] = [refused(400, "InvalidPart")] * 9
    with pytest.raises(StorageError, match="a: failed"):
        store.put("a", b"0123456789abcdef")
    assert set(server.uploads.values()) == {None}
    assert len(server.uploads) == 3


def test_an_object_that_a_busy_server_did_not_delete_is_deleted_at_the_next_try(server, store):
    answers = [{"Errors": [{"Key": "runs/a", "Code": "SlowDown", "Message": "m"}]}, {}]
    server.delete_objects = lambda **_: answers.pop(0)
    store.delete(["a"])
    assert answers == []


def test_an_object_that_may_not_be_deleted_is_named(server, store):
    server.delete_objects = lambda **_: {"Errors": [{"Key": "runs/a", "Code": "AccessDenied", "Message": "m"}]}
    with pytest.raises(StorageError, match=r"s3://bucket/runs/a: not deleted .AccessDenied: m.; grant s3:DeleteObject"):
        store.delete(["a"])


def test_a_create_whose_reply_was_lost_is_read_back(server, store):
    server.failures["put_object"] = [(TimeoutError(), "after")]
    store.create("slot", b"mine")
    assert server.calls == ["put_object"]
    with pytest.raises(AlreadyExists):
        store.create("slot", b"theirs")


def test_a_missing_object_is_missing_and_not_asked_for_again(server, store):
    with pytest.raises(NotFound, match="s3://bucket/runs/a: does not exist"):
        store.stat("a")
    assert server.calls == ["head_object"]
