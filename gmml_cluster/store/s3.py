"""A store in a bucket, through s3fs. Endpoint and credentials come from the usual environment (AWS_ENDPOINT_URL, ...).

Creates are single requests with `If-None-Match: *`; only large puts go in parts. `requests.py` retries.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.store.protocol import AlreadyExists, NotFound, Put, Stat, Unfinished, checked
from gmml_cluster.store.requests import Requests, ServerBusy, code_of, is_undecided, status_of

SINGLE_PUT_BYTES = 64 * 2**20
PART_BYTES = 32 * 2**20
_MOST_PARTS = 10_000
_PARTS_AT_ONCE = 4
_DELETED_AT_ONCE = 1000
_RANGE_BEYOND_END = 416
_UPLOADS_TRIED = 3
# the server no longer knows an upload or a part of it: only a new upload can succeed
_UPLOAD_LOST = ("InvalidPart", "NoSuchUpload")
_BUSY = ("InternalError", "ServiceUnavailable", "SlowDown")
# calls that list, and where an answer says how the next one begins: field of the request -> field of the answer
_OBJECTS = ("list_objects_v2", {"ContinuationToken": "NextContinuationToken"})
_UPLOADS = ("list_multipart_uploads", {"KeyMarker": "NextKeyMarker", "UploadIdMarker": "NextUploadIdMarker"})

_log = logging.getLogger(__name__)


class S3Store:
    """Objects below `s3://bucket/prefix`.

    Args:
        url: the bucket, with or without a prefix; `open_store` has checked it.
        requests: connection shared with another store; a new one where it is None.
    """

    def __init__(self, url: str, requests: Requests | None = None) -> None:
        self._bucket, _, self._prefix = url.removeprefix("s3://").strip("/").partition("/")
        self._requests = requests or Requests()

    @property
    def url(self) -> str:
        return f"s3://{self._bucket}/{self._prefix}".rstrip("/")

    def create(self, name: str, data: bytes) -> None:
        where, body = self._target(name), bytes(data)

        def create_or_read_back() -> None:
            try:
                self._requests.send("put_object", **where, Body=body, IfNoneMatch="*")
            except self._requests.errors as error:
                # the name may be taken by this very request, if its first reply was lost and aiohttp sent it again
                if not is_undecided(error) or not self._holds(name, body):
                    raise

        self._requests.persist(self._where(name), create_or_read_back, retry_on=is_undecided)

    def put(self, name: str, data: bytes | memoryview, *, private: bool = False) -> None:
        view = memoryview(data).cast("B")
        self._put(name, len(view), lambda start, length: bytes(view[start : start + length]))

    def put_many(self) -> AbstractContextManager[Put]:
        return nullcontext(self.put)

    def put_file(self, name: str, path: str | os.PathLike[str]) -> None:
        with open(path, "rb") as file:
            descriptor = file.fileno()
            self._put(name, os.fstat(descriptor).st_size, lambda start, length: os.pread(descriptor, length, start))

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes:
        if length == 0:
            return b""
        where = self._target(name)

        def read() -> bytes:
            if length is not None:
                return self._requests.read_range(start, length, **where)
            return self._requests.read(**where, **({"Range": f"bytes={start}-"} if start else {}))

        return self._requests.persist(self._where(name), lambda: self._unless_beyond_end(read))

    def stat(self, name: str) -> Stat:
        found = self._requests.persist(
            self._where(name), lambda: self._requests.send("head_object", **self._target(name))
        )
        return Stat(name, found["ContentLength"], found["ETag"].strip('"'))

    def list_objects(self, prefix: str = "") -> list[Stat]:
        skip = len(self._inside)
        found = (item for page in self._pages(*_OBJECTS, prefix) for item in page.get("Contents", ()))
        stats = (Stat(item["Key"][skip:], item["Size"], item["ETag"].strip('"')) for item in found)
        return sorted(stats, key=lambda stat: stat.name)

    def folders(self) -> list[str]:
        skip = len(self._inside)
        found = (item for page in self._pages(*_OBJECTS, "", Delimiter="/") for item in page.get("CommonPrefixes", ()))
        return sorted(item["Prefix"][skip:].rstrip("/") for item in found)

    def delete(self, names: Iterable[str]) -> None:
        keys = [{"Key": self._key(name)} for name in names]
        for first in range(0, len(keys), _DELETED_AT_ONCE):
            chunk = {"Objects": keys[first : first + _DELETED_AT_ONCE], "Quiet": True}
            self._requests.persist(self.url, lambda chunk=chunk: self._delete(chunk))  # type: ignore[misc]

    def unfinished(self, prefix: str = "") -> list[Unfinished]:
        skip = len(self._inside)
        found = (item for page in self._pages(*_UPLOADS, prefix) for item in page.get("Uploads", ()))
        return sorted(Unfinished(item["Key"][skip:], item["UploadId"], item["Initiated"].timestamp()) for item in found)

    def discard(self, unfinished: Iterable[Unfinished]) -> None:
        for write in unfinished:
            self._abort({**self._target(write.name), "UploadId": write.upload})

    def child(self, prefix: str) -> "S3Store":
        return S3Store(f"{self.url}/{checked(self.url, prefix)}", self._requests)

    def _key(self, name: str) -> str:
        return self._inside + checked(self.url, name)

    def _target(self, name: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": self._key(name)}

    def _where(self, name: str) -> str:
        return f"{self.url}/{name}"

    def _holds(self, name: str, body: bytes) -> bool:
        """Whether the object exists with these bytes.

        Raises:
            AlreadyExists: it has other bytes.
        """
        try:
            found = self.get(name)
        except NotFound:
            return False
        if found != body:
            raise AlreadyExists(Fault(self._where(name), "exists already; it is written once", "read it instead"))
        return True

    def _unless_beyond_end(self, read: Callable[[], bytes]) -> bytes:
        try:
            return read()
        except self._requests.errors as error:
            if status_of(error) == _RANGE_BEYOND_END:
                return b""
            raise

    def _pages(self, method: str, marks: dict[str, str], prefix: str, **options: str) -> Iterator[dict[str, Any]]:
        question = {"Bucket": self._bucket, "Prefix": self._inside + prefix, **options}
        while True:
            page = self._requests.persist(self.url, lambda: self._requests.send(method, **question))
            yield page
            if not page.get("IsTruncated"):
                return
            question.update({asked: page[answered] for asked, answered in marks.items()})

    def _abort(self, where: dict[str, str]) -> None:
        """Delete the parts of an upload; nothing where it has ended meanwhile."""
        text = f"s3://{where['Bucket']}/{where['Key']}"
        with suppress(NotFound):
            self._requests.persist(text, lambda: self._requests.send("abort_multipart_upload", **where))

    @property
    def _inside(self) -> str:
        return f"{self._prefix}/" if self._prefix else ""

    def _delete(self, chunk: dict[str, object]) -> None:
        answer = self._requests.send("delete_objects", Bucket=self._bucket, Delete=chunk)
        for error in answer.get("Errors", ()):
            problem = f"not deleted ({error.get('Code')}: {error.get('Message')})"
            if error.get("Code") in _BUSY:
                raise ServerBusy(problem)
            raise StorageError(Fault(f"s3://{self._bucket}/{error.get('Key')}", problem, "grant s3:DeleteObject"))

    def _put(self, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
        if size > SINGLE_PUT_BYTES:
            self._put_parts(name, size, read)
            return
        where = self._target(name)
        self._requests.persist(
            self._where(name), lambda: self._requests.send("put_object", **where, Body=read(0, size))
        )

    def _put_parts(self, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
        for left in reversed(range(_UPLOADS_TRIED)):
            try:
                self._upload(name, size, read)
            except StorageError as error:
                if not left or code_of(error.__cause__) not in _UPLOAD_LOST:
                    raise
                _log.warning("%s; all parts are uploaded again", error)
            else:
                return

    def _upload(self, name: str, size: int, read: Callable[[int, int], bytes]) -> None:
        where, text = self._target(name), self._where(name)
        step = max(PART_BYTES, -(-size // _MOST_PARTS))
        begun = self._requests.persist(text, lambda: self._requests.send("create_multipart_upload", **where))
        where["UploadId"] = begun["UploadId"]

        def upload(number: int) -> dict[str, Any]:
            body = read((number - 1) * step, step)
            sent = {**where, "PartNumber": number, "Body": body}
            answer = self._requests.persist(text, lambda: self._requests.send("upload_part", **sent))
            return {"PartNumber": number, "ETag": answer["ETag"]}

        pool = ThreadPoolExecutor(_PARTS_AT_ONCE)
        try:
            self._complete(name, where, list(pool.map(upload, range(1, -(-size // step) + 1))))
        except BaseException:
            pool.shutdown(cancel_futures=True)  # or a failed part would wait for the hundreds that follow it
            try:
                self._abort(where)
            except StorageError as error:  # the first error is the one to raise; retention discards the parts later
                _log.warning("%s", error)
            raise
        finally:
            pool.shutdown()

    def _complete(self, name: str, where: dict[str, str], parts: list[dict[str, Any]]) -> None:
        """Make the object of its parts. A completion whose reply was lost ends the upload: the retry finds none."""
        uploaded = {"Parts": parts}
        try:
            self._requests.persist(
                self._where(name),
                lambda: self._requests.send("complete_multipart_upload", **where, MultipartUpload=uploaded),
            )
        except NotFound:
            if not self._is_complete(name, parts):
                raise

    def _is_complete(self, name: str, parts: list[dict[str, Any]]) -> bool:
        """Whether the object is the one of these parts, by its ETag: the MD5 of theirs, where they are MD5s too."""
        try:
            digests = b"".join(bytes.fromhex(part["ETag"].strip('"')) for part in parts)
            return self.stat(name).version == f"{hashlib.md5(digests, usedforsecurity=False).hexdigest()}-{len(parts)}"
        except (NotFound, ValueError):
            return False
