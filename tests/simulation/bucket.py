"""A virtual object store under the real `S3Store`: single puts with If-None-Match, multipart uploads, listings."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gmml_cluster.store.requests import Requests
from tests.simulation.weather import Exchange
from tests.simulation.world import here


class Answer(OSError):
    """An answer of the server that is no success, as s3fs raises it."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"{status} {code}")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


@dataclass
class Bucket:
    """Objects and unfinished uploads.

    Attributes:
        watch: called with key, old bytes and new bytes (None: no object) before each change.
    """

    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: dict[str, dict[str, Any]] = field(default_factory=dict)
    watch: Callable[[str, bytes | None, bytes | None], None] = lambda key, old, new: None
    honours_if_none_match: bool = True
    _number: int = 0

    def put_object(self, *, Key: str, Body: bytes, IfNoneMatch: str = "", **rest: Any) -> dict[str, Any]:
        if IfNoneMatch == "*" and Key in self.objects and self.honours_if_none_match:
            raise Answer(412, "PreconditionFailed")
        self._set(Key, bytes(Body))
        return {"ETag": _etag(Body)}

    def get_object(self, *, Key: str, Range: str = "", **rest: Any) -> bytes:
        if Key not in self.objects:
            raise Answer(404, "NoSuchKey")
        data = self.objects[Key]
        if not Range:
            return data
        first, _, last = Range.removeprefix("bytes=").partition("-")
        if int(first) >= len(data):
            raise Answer(416, "InvalidRange")
        return data[int(first) : int(last) + 1 if last else None]

    def head_object(self, *, Key: str, **rest: Any) -> dict[str, Any]:
        if Key not in self.objects:
            raise Answer(404, "404")
        return {"ContentLength": len(self.objects[Key]), "ETag": _etag(self.objects[Key])}

    def list_objects_v2(self, *, Prefix: str = "", Delimiter: str = "", **rest: Any) -> dict[str, Any]:
        keys = sorted(key for key in self.objects if key.startswith(Prefix))
        if Delimiter:
            folders = {Prefix + key[len(Prefix) :].split("/")[0] for key in keys if "/" in key[len(Prefix) :]}
            return {"CommonPrefixes": [{"Prefix": f"{folder}/"} for folder in sorted(folders)]}
        return {"Contents": [{"Key": k, "Size": len(self.objects[k]), "ETag": _etag(self.objects[k])} for k in keys]}

    def delete_objects(self, *, Delete: dict[str, Any], **rest: Any) -> dict[str, Any]:
        for item in Delete["Objects"]:
            if item["Key"] in self.objects:
                self._set(item["Key"], None)
        return {}

    def create_multipart_upload(self, *, Key: str, **rest: Any) -> dict[str, Any]:
        self._number += 1
        upload = f"upload-{self._number}"
        self.uploads[upload] = {"Key": Key, "Initiated": datetime.fromtimestamp(here().now, UTC), "parts": {}}
        return {"UploadId": upload}

    def upload_part(self, *, UploadId: str, PartNumber: int, Body: bytes, **rest: Any) -> dict[str, Any]:
        self._upload(UploadId)["parts"][PartNumber] = bytes(Body)
        return {"ETag": _etag(Body)}

    def complete_multipart_upload(self, *, UploadId: str, MultipartUpload: Any, **rest: Any) -> dict[str, Any]:
        upload = self._upload(UploadId)
        parts = [upload["parts"][part["PartNumber"]] for part in MultipartUpload["Parts"]]
        self._set(upload["Key"], b"".join(parts))
        del self.uploads[UploadId]
        return {}

    def abort_multipart_upload(self, *, UploadId: str, **rest: Any) -> dict[str, Any]:
        self._upload(UploadId)
        del self.uploads[UploadId]
        return {}

    def list_multipart_uploads(self, *, Prefix: str = "", **rest: Any) -> dict[str, Any]:
        found = [(name, upload) for name, upload in self.uploads.items() if upload["Key"].startswith(Prefix)]
        return {"Uploads": [{"UploadId": name, **upload} for name, upload in found]}

    def _upload(self, name: str) -> dict[str, Any]:
        if name not in self.uploads:
            raise Answer(404, "NoSuchUpload")
        return self.uploads[name]

    def _set(self, key: str, data: bytes | None) -> None:
        self.watch(key, self.objects.get(key), data)
        if data is None:
            del self.objects[key]
        else:
            self.objects[key] = data


class BucketRequests(Requests):
    """The product's requests and retries, sent to a virtual bucket."""

    errors = (OSError,)  # type: ignore[assignment]

    def __init__(self, bucket: Bucket, exchange: Exchange) -> None:
        super().__init__()
        self._bucket, self._exchange = bucket, exchange

    def send(self, method: str, **arguments: Any) -> dict[str, Any]:
        act = getattr(self._bucket, method)
        # a delete that is late is left out: see docs/reference/log.md
        late = method in ("put_object", "upload_part", "complete_multipart_upload", "create_multipart_upload")
        where = arguments.get("Key") or arguments.get("Prefix") or _deleted(arguments)
        answer: dict[str, Any] = self._exchange.send(
            method, where, lambda: act(**arguments), repeats=(lambda: act(**arguments)) if late else None
        )
        return answer

    def read(self, **arguments: Any) -> bytes:
        return self._exchange.send("get_object", arguments["Key"], lambda: self._bucket.get_object(**arguments))


def refused(what: str) -> BaseException:
    """A server in trouble, or two conditional writes at one moment."""
    return Answer(
        *here().random.choice(((500, "InternalError"), (503, "SlowDown"), (409, "ConditionalRequestConflict")))
    )


def unanswered() -> BaseException:
    """No answer in time, or a connection that broke."""
    return here().random.choice((TimeoutError("timed out"), ConnectionResetError("reset")))


def _deleted(arguments: dict[str, Any]) -> str:
    return " ".join(item["Key"] for item in arguments.get("Delete", {}).get("Objects", ()))


def _etag(data: bytes) -> str:
    return f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
