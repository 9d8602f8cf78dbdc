"""Requests to an object store, and their retries.

s3fs and botocore do not retry here (aiohttp does, once, where a connection breaks), so that a create whose outcome is
unknown can be read back before it is sent again. A store that never answered this process is given up early: its
address is more likely wrong than its service down.
"""

import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from time import sleep
from typing import Any, TypeVar

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.running_time import running_time
from gmml_cluster.store.protocol import NotFound
from gmml_cluster.store.ranges import Ranges
from gmml_cluster.store.rehearsal import rehearsal
from gmml_cluster.store.retries import count_retry

REQUEST_S = 30.0
DEADLINE_S = 300.0
FIRST_DEADLINE_S = 20.0
_CONNECT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_CONNECTIONS = 256
"""As many as the reader has requests in flight at most; they are opened on demand."""
_CONFLICT, _PRECONDITION, _NOT_FOUND = 409, 412, 404
_TRANSIENT = (408, _CONFLICT, 429)
_NOT_IMPLEMENTED = 501
# answered with status 400 although the request was right: its body was damaged or cut off on the way to the server
# credentials that are renewed elsewhere, in a file say, are read again by a new client
_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
_DAMAGED_ON_THE_WAY = ("BadDigest", "IncompleteBody", "RequestTimeout", "XAmzContentSHA256Mismatch")

T = TypeVar("T")


class ServerBusy(OSError):
    """A server could not do part of a request now, by an answer whose status is that of success."""


@dataclass(frozen=True)
class _Client:
    """What a process sends its requests by."""

    system: Any
    """An `S3FileSystem`."""
    ranges: Ranges


class Requests:
    """Sends requests through s3fs; thread-safe, and a forked child gets connections of its own."""

    def __init__(self) -> None:
        self._clients: dict[int, _Client] = {}
        self._answered = False

    @cached_property
    def errors(self) -> tuple[type[BaseException], ...]:
        """Everything that a request raises when it fails."""
        _require()
        from botocore.exceptions import BotoCoreError
        from s3fs.core import S3_RETRYABLE_ERRORS

        return (OSError, BotoCoreError, *S3_RETRYABLE_ERRORS)

    def send(self, method: str, **arguments: Any) -> dict[str, Any]:
        """One request, without a retry; raises one of `errors`."""
        rehearsal.request()
        answer: dict[str, Any] = self._client.system.call_s3(method, **arguments)
        return answer

    def read(self, **arguments: Any) -> bytes:
        """The body that one `get_object` answers with, without a retry; raises one of `errors`."""
        from fsspec.asyn import sync

        rehearsal.request()
        system = self._client.system

        async def body() -> bytes:
            answer = await system._call_s3("get_object", **arguments)
            async with answer["Body"] as stream:
                data: bytes = await stream.read()
            return data

        data: bytes = sync(system.loop, body)
        return data

    def read_range(self, start: int, length: int, **where: str) -> bytes:
        """Bytes of an object, fewer where it ends, by obstore or s3fs, without a retry; raises one of `errors`.

        Nothing checks them on their way: the body of a whole object is checked by s3fs, a part of it by none.
        """
        ranges, asked = self._client.ranges, f"bytes={start}-{start + length - 1}"
        if not ranges.serves(where["Bucket"]):
            return self.read(**where, Range=asked)
        rehearsal.request()
        began = running_time()
        try:
            return ranges.read(where["Bucket"], where["Key"], start, length)
        except Exception as error:  # s3fs says what it is
            count_retry()
            data = self.read(**where, Range=asked)
            ranges.failed_alone(where["Bucket"], error, began)
            return data

    def persist(
        self, where: str, action: Callable[[], T], retry_on: Callable[[BaseException], bool] | None = None
    ) -> T:
        """What the action returns, tried again while it fails in a transient way, for five minutes at most.

        Args:
            where: what the fault names.
            action: raises one of `errors` where it fails.
            retry_on: failures worth another try; `is_transient` where it is None.

        Raises:
            NotFound: the object does not exist.
            StorageError: refused, or not answered in time. Its `__cause__` is what the action raised.
        """
        began, pause_s = running_time(), _FIRST_PAUSE_S
        while True:
            try:
                result = action()
            except self.errors as error:
                self._answered |= status_of(error) is not None
                deadline_s = DEADLINE_S if self._answered else FIRST_DEADLINE_S
                if not (retry_on or is_transient)(error) or running_time() - began + pause_s > deadline_s:
                    raise _failure(where, error) from error
                if code_of(error) in _EXPIRED:
                    self._clients.pop(os.getpid(), None)
                count_retry()
                # thousands of ranks fail at the same moment; without chance they would come back at the same moment
                sleep(random.uniform(0.5, 1.0) * pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                self._answered = True
                return result

    @property
    def _client(self) -> _Client:
        own = os.getpid()
        return self._clients.get(own) or self._clients.setdefault(own, _connect())


def _connect() -> _Client:
    from aiobotocore.session import AioSession
    from s3fs import S3FileSystem

    session = AioSession()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=read_time)
    config = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": REQUEST_S,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": _CONNECTIONS,
    }
    system = S3FileSystem(session=session, skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
    system.retries = 1
    return _Client(system, Ranges(system, connect_s=_CONNECT_S, silent_s=REQUEST_S, deadline_s=DEADLINE_S))


def read_time(text: Any) -> datetime:
    """The time in an answer, as botocore reads it.

    Its own way took three quarters of a listing's CPU, a thousand times a page, and there nobody wants the times.
    """
    from botocore.utils import parse_timestamp

    try:
        return datetime.fromisoformat(text)
    except (TypeError, ValueError):  # as in the headers of an answer
        found: datetime = parse_timestamp(text)
        return found


def _require() -> None:
    try:
        import s3fs  # noqa: F401
    except ImportError as error:
        problem = "s3fs is not installed; object stores need it"
        raise StorageError(Fault("s3://", problem, "pip install 'gmml-cluster[s3]'")) from error


def status_of(error: BaseException) -> int | None:
    """HTTP status of the store's answer; None where it did not answer."""
    status: int | None = _answer(error).get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def code_of(error: BaseException | None) -> str:
    """The store's own name for the error, such as `NoSuchUpload`; empty where it did not answer."""
    return str(_answer(error).get("Error", {}).get("Code", ""))


def _answer(error: BaseException | None) -> dict[str, Any]:
    """The parsed answer within a botocore error, or within an error that s3fs made of one."""
    response = getattr(getattr(error, "__cause__", None), "response", None) or getattr(error, "response", None)
    return response if isinstance(response, dict) else {}


def is_transient(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, a damaged one or damage on the way, or a busy server."""
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import CredentialRetrievalError, FlexibleChecksumError
    from s3fs.core import S3_RETRYABLE_ERRORS

    status = status_of(error)
    if status is not None:
        in_trouble = (status >= 500 and status != _NOT_IMPLEMENTED) or status in _TRANSIENT
        return in_trouble or code_of(error) in (*_DAMAGED_ON_THE_WAY, *_EXPIRED)
    # without an answer: names that do not resolve for a while and credential services that are down are among them
    lost = (TimeoutError, ConnectionError, NoConnection, CredentialRetrievalError, FlexibleChecksumError, ServerBusy)
    return isinstance(error, (*S3_RETRYABLE_ERRORS, *lost))


def is_undecided(error: BaseException) -> bool:
    """Whether the outcome of a create is unknown until it is read back: also where the name seems to be taken."""
    return status_of(error) == _PRECONDITION or is_transient(error)


def _failure(where: str, error: BaseException) -> StorageError:
    text = str(error) or type(error).__name__
    if status_of(error) == _NOT_FOUND and "bucket" not in text.lower():
        return NotFound(Fault(where, "does not exist; it was deleted or never written", "list the store"))
    if code_of(error) in _EXPIRED:
        problem = f"the credentials have expired ({code_of(error)}) and are not renewed"
        return StorageError(Fault(where, problem, "renew them where they come from: file, role or environment"))
    if isinstance(error, PermissionError):
        return StorageError(Fault(where, f"refused ({text}); the credentials lack this right or are wrong", "grant it"))
    if is_transient(error):
        problem = f"no answer ({text}); every retry failed"
        return StorageError(Fault(where, problem, "check AWS_ENDPOINT_URL and the service"))
    return StorageError(Fault(where, f"failed ({text})", "check bucket, endpoint and credentials"))
