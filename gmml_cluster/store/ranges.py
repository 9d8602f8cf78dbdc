"""Ranges of objects by obstore, where it is installed: a small read takes a fraction of the CPU time it takes s3fs.

s3fs stays what users configure: its endpoint, region and credentials are used here. It also stays the judge: whatever
fails here is asked for again through s3fs, whose errors are known, and a bucket that obstore alone cannot read is left
to it altogether.
"""

import logging
import os
import threading
from collections import Counter
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from gmml_cluster.running_time import running_time

if TYPE_CHECKING:
    from obstore.store import ClientConfig, S3Credential, S3Store

_FAILURES_ALONE = 3
"""Reads one after another that s3fs answered and obstore did not, until a bucket is left to s3fs."""

_log = logging.getLogger(__name__)
_installed = find_spec("obstore") is not None
_runtime_of: int | None = None
"""The process whose threads obstore uses. They do not exist in a forked child, where a call would never return."""


class Ranges:
    """Reads ranges with the settings of an s3fs file system; thread-safe.

    Args:
        system: the `S3FileSystem`.
        connect_s: seconds that a connection may take to be made.
        silent_s: seconds that a server may send nothing.
        deadline_s: seconds that a request may take.
    """

    def __init__(self, system: Any, *, connect_s: float, silent_s: float, deadline_s: float) -> None:
        self._system = system
        self._options: ClientConfig = {
            "allow_http": True,
            "connect_timeout": timedelta(seconds=connect_s),
            "read_timeout": timedelta(seconds=silent_s),
            "timeout": timedelta(seconds=deadline_s),
        }
        self._stores: dict[str, S3Store] = {}
        self._opening = threading.Lock()
        self._failures: Counter[str] = Counter()
        self._failed_at: dict[str, float] = {}

    def serves(self, bucket: str) -> bool:
        """Whether this thread should read the bucket here.

        Not the main thread, where Python hears a signal only once a call into obstore has returned.
        """
        if not _installed or threading.current_thread() is threading.main_thread():
            return False
        return _runtime_of in (None, os.getpid()) and self._failures[bucket] < _FAILURES_ALONE

    def read(self, bucket: str, key: str, start: int, length: int) -> bytes:
        """Bytes of an object.

        Raises:
            Exception: not read, for whatever reason; also where the object ends before.
        """
        global _runtime_of
        import obstore

        _runtime_of = os.getpid()
        data = obstore.get_range(self._store(bucket), key, start=start, length=length).to_bytes()
        self._failures.pop(bucket, None)
        return data

    def failed_alone(self, bucket: str, error: Exception, began: float) -> None:
        """What was not read here has been read by s3fs.

        Reads that were under way together count as one: a store that is started anew, or a pause of this process, ends
        all of their connections, which says nothing of obstore.

        Args:
            began: when the read began here, by `running_time`.
        """
        if began < self._failed_at.get(bucket, began):
            return
        self._failed_at[bucket] = running_time()
        self._failures[bucket] += 1
        if self._failures[bucket] == _FAILURES_ALONE:
            reason = str(error).partition("\n")[0]
            _log.warning("s3://%s is read by s3fs alone from now on; obstore cannot: %s", bucket, reason)

    def _store(self, bucket: str) -> "S3Store":
        with self._opening:  # a stream's threads all begin at once, and each client reads the system's certificates
            if bucket not in self._stores:
                self._stores[bucket] = self._open(bucket)
            return self._stores[bucket]

    def _open(self, bucket: str) -> "S3Store":
        from botocore import UNSIGNED
        from obstore.store import S3Store

        self._system.connect()
        meta, by_host, options = self._system.s3.meta, self._is_named_by_host(bucket), self._options
        if bundle := self._system.session.get_config_variable("ca_bundle"):
            options = {**options, "root_certificate": Path(bundle).read_bytes()}
        return S3Store(
            bucket,
            # obstore takes the endpoint of a bucket that is named by its host as it is
            endpoint=meta.endpoint_url.replace("://", f"://{bucket}.", 1) if by_host else meta.endpoint_url,
            virtual_hosted_style_request=by_host,
            region=meta.region_name,
            skip_signature=meta.config.signature_version is UNSIGNED,
            client_options=options,
            retry_config={"max_retries": 0},
            credential_provider=self._credentials,
        )

    def _is_named_by_host(self, bucket: str) -> bool:
        """Whether the bucket is part of the host's name and not of the path: as botocore decides it."""
        from fsspec.asyn import sync

        asked = {"Bucket": bucket, "Key": "key"}
        address: str = sync(self._system.loop, self._system.s3.generate_presigned_url, "get_object", Params=asked)
        return urlsplit(address).path == "/key"

    def _credentials(self) -> "S3Credential":
        from fsspec.asyn import sync

        async def found() -> "S3Credential":
            credentials = await self._system.session.get_credentials()
            frozen = await credentials.get_frozen_credentials()
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token,
                "expires_at": getattr(credentials, "_expiry_time", None),
            }

        credential: S3Credential = sync(self._system.loop, found)
        return credential
