"""Requests to an object store, and their retries.

s3fs and botocore do not retry here (aiohttp does, once, where a connection breaks), so that a create of unknown outcome
can be read back before it is sent again. A store that never answered this process is given up early: its address is
more likely wrong than its service down.
"""

import os
import time
from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

from gmml_cluster.errors import StorageError
from gmml_cluster.store.protocol import NotFound

REQUEST_S = 30.0
DEADLINE_S = 300.0
FIRST_DEADLINE_S = 20.0
_CONNECT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
_CONNECTIONS = 256  # as many as a stream has requests in flight at most (data/reader/stream.py); idle ones cost nothing
_CONFLICT, _PRECONDITION = 409, 412
_PASSING = (408, _CONFLICT, 429)
_NOT_IMPLEMENTED = 501

T = TypeVar("T")


class Requests:
    """Sends requests through s3fs; thread-safe, and a forked child gets connections of its own."""

    def __init__(self) -> None:
        self._systems: dict[int, Any] = {}
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
        answer: dict[str, Any] = self._system.call_s3(method, **arguments)
        return answer

    def read(self, **arguments: Any) -> bytes:
        """The body that one `get_object` answers with, without a retry; raises one of `errors`."""
        from fsspec.asyn import sync

        system = self._system

        async def body() -> bytes:
            answer = await system._call_s3("get_object", **arguments)
            async with answer["Body"] as stream:
                data: bytes = await stream.read()
            return data

        data: bytes = sync(system.loop, body)
        return data

    def persist(self, where: str, action: Callable[[], T], again: Callable[[BaseException], bool] | None = None) -> T:
        """What the action returns, tried again while it fails in a way that passes, for five minutes at most.

        Args:
            where: what the fault names.
            action: raises one of `errors` where it fails.
            again: failures worth another try; those of the network and an overloaded server where it is None.

        Raises:
            Missing: the object does not exist.
            StorageError: refused, or not answered in time.
        """
        began, pause = time.monotonic(), _FIRST_PAUSE_S
        while True:
            try:
                result = action()
            except self.errors as error:
                self._answered |= status_of(error) is not None
                patience = DEADLINE_S if self._answered else FIRST_DEADLINE_S
                if not (again or passes)(error) or time.monotonic() - began + pause > patience:
                    raise _fault(where, error) from error
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self._answered = True
                return result

    @property
    def _system(self) -> Any:
        own = os.getpid()
        return self._systems.get(own) or self._systems.setdefault(own, _connect())


def _connect() -> Any:
    from s3fs import S3FileSystem

    config = {
        "connect_timeout": _CONNECT_S,
        "read_timeout": REQUEST_S,
        "retries": {"mode": "standard", "total_max_attempts": 1},
        "max_pool_connections": _CONNECTIONS,
    }
    system = S3FileSystem(skip_instance_cache=True, use_listings_cache=False, config_kwargs=config)
    system.retries = 1
    return system


def _require() -> None:
    try:
        import s3fs  # noqa: F401
    except ImportError as error:
        raise StorageError("s3://: s3fs is not installed; S3 needs it; pip install 'gmml-cluster[s3]'") from error


def status_of(error: BaseException) -> int | None:
    """HTTP status that the store answered with; None where it did not answer."""
    response = getattr(error.__cause__, "response", None) or getattr(error, "response", None)
    if not isinstance(response, dict):
        return None
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def passes(error: BaseException) -> bool:
    """Whether the same request may succeed later: no answer, a damaged one, or a server in trouble."""
    from botocore.exceptions import ConnectionError as NoConnection
    from botocore.exceptions import FlexibleChecksumError
    from s3fs.core import S3_RETRYABLE_ERRORS

    status = status_of(error)
    if status is not None:
        return (status >= 500 and status != _NOT_IMPLEMENTED) or status in _PASSING
    return isinstance(error, (*S3_RETRYABLE_ERRORS, TimeoutError, ConnectionError, NoConnection, FlexibleChecksumError))


def conflicts(error: BaseException) -> bool:
    """Whether the outcome of a create is unknown until it is read back: also where the name seems to be taken."""
    return status_of(error) == _PRECONDITION or passes(error)


def _fault(where: str, error: BaseException) -> StorageError:
    told = str(error) or type(error).__name__
    if status_of(error) == 404 and "bucket" not in told.lower():
        return NotFound(f"{where}: does not exist; it was deleted or never written; list the store")
    if isinstance(error, PermissionError):
        return StorageError(f"{where}: refused ({told}); the credentials lack this right or are wrong; grant it")
    if passes(error):
        return StorageError(f"{where}: no answer ({told}); tried again in vain; check AWS_ENDPOINT_URL and the service")
    return StorageError(f"{where}: failed ({told}); the store must answer; check bucket, endpoint and credentials")
