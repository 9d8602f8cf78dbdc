"""Whether a store can hold a run: each operation that runs need is done once, on an object of a random name."""

import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gmml_cluster.errors import Fault, PreflightError, StorageError
from gmml_cluster.store.protocol import AlreadyExists, NotFound, Store


def probe(store: Store) -> None:
    """Create twice, get, get a missing name, read a range, list, delete.

    Raises:
        PreflightError: a right is missing, or the store breaks a promise that runs rely on, such as create-once.
    """
    name, body = f".probe/{secrets.token_hex(8)}", secrets.token_hex(16).encode()
    try:
        _probe_create(store, name, body)
        _probe_reads(store, name, body)
    finally:
        with suppress(StorageError):  # the same delete is judged below, unless an earlier operation failed
            store.delete([name])
    with _right(store, "delete"):
        store.delete([name])
        _demand(
            store,
            name not in [found.name for found in store.list_objects(".probe/")],
            "a deleted object is still listed",
        )


def _probe_create(store: Store, name: str, body: bytes) -> None:
    with _right(store, "create"):
        store.create(name, body)
    with _right(store, "create"):
        try:
            store.create(name, secrets.token_hex(16).encode())
        except AlreadyExists:
            return
    raise _refused(
        store,
        "an object that existed was created again (If-None-Match is ignored); the log needs create-once",
        "use a folder or a store that honours it, such as AWS S3, Ceph or SeaweedFS",
    )


def _probe_reads(store: Store, name: str, body: bytes) -> None:
    with _right(store, "get"):
        _demand(store, store.get(name) == body, "a read returned other bytes than were written")
    with _right(store, "get a missing name (on S3 it needs the right to list)"), suppress(NotFound):
        store.get(f"{name}-missing")
        _demand(store, False, "an object that was never written was found")
    with _right(store, "get a range"):
        _demand(store, store.get(name, 3, 7) == body[3:10], "a range read returned other bytes than were written")
    with _right(store, "list"):
        _demand(
            store,
            name in [found.name for found in store.list_objects(".probe/")],
            "an object just written is not listed",
        )


@contextmanager
def _right(store: Store, right: str) -> Iterator[None]:
    try:
        yield
    except StorageError as error:
        raise PreflightError(Fault(store.url, f"cannot {right}: {error}")) from error


def _demand(store: Store, holds: bool, problem: str) -> None:
    if not holds:
        raise _refused(store, f"{problem}; runs rely on it", "use another store")


def _refused(store: Store, problem: str, hint: str) -> PreflightError:
    return PreflightError(Fault(store.url, problem, hint))
