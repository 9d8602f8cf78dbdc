"""Faults of stores, shards, checkpoints and numbers, met by the code that meets them in a run; each raises."""

import errno
import io
import os
import socket
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from unittest.mock import patch

import numpy as np
from PIL import Image

from gmml_cluster.data.corpus import checksums
from gmml_cluster.data.corpus.listing import list_shards
from gmml_cluster.data.corpus.pin import Pin, pin
from gmml_cluster.data.reader import fetch
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.run import protocol
from gmml_cluster.run.history import Commit
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.spec.job import CorpusSpec
from gmml_cluster.store import requests
from gmml_cluster.store.open import open_store
from tests.unit.run.memory import MemoryStore
from tests.unit.train.test_loop import Engine, train


class NotFinite(Exception):
    """The loop ended for that reason."""


def _of_kernel(number: int) -> None:
    raise OSError(number, os.strerror(number), "/scratch/run/checkpoints/part")


def quota() -> None:
    _of_kernel(errno.EDQUOT)


def input_output() -> None:
    _of_kernel(errno.EIO)


def stale_handle() -> None:
    _of_kernel(errno.ESTALE)


def lost_mount() -> None:
    _of_kernel(errno.ENOTCONN)


def full_in_words() -> None:
    raise RuntimeError("unable to write to file </torch_7_1>: No space left on device (28)")


@contextmanager
def _server(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """An object store on this machine that gives every request the same answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: object) -> None:
            """Nothing is printed."""

    for method in ("HEAD", "PUT", "POST"):
        setattr(Handler, f"do_{method}", Handler.do_GET)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def _refused(status: int, code: str) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        body = f"<Error><Code>{code}</Code><Message>{code}</Message></Error>".encode()
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        handler.wfile.write(body)

    with _server(answer) as endpoint:
        _read_from(endpoint)


def _read_from(endpoint: str) -> None:
    known = {"AWS_ENDPOINT_URL": endpoint, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
             "AWS_DEFAULT_REGION": "us-east-1"}  # fmt: skip
    with patch.dict(os.environ, known), patch.multiple(requests, DEADLINE_S=0.5, FIRST_DEADLINE_S=0.5):
        open_store("s3://bucket/run").get("log/00000000.json")


def store_500() -> None:
    _refused(500, "InternalError")


def store_503() -> None:
    _refused(503, "SlowDown")


def credentials() -> None:
    _refused(400, "ExpiredToken")


def clock() -> None:
    _refused(403, "RequestTimeTooSkewed")


def store_resets() -> None:
    with _server(lambda handler: handler.connection.shutdown(socket.SHUT_RDWR)) as endpoint:
        _read_from(endpoint)


def store_refuses() -> None:
    with socket.socket() as bound:  # it has a port and does not listen
        bound.bind(("127.0.0.1", 0))
        _read_from(f"http://127.0.0.1:{bound.getsockname()[1]}")


def dns() -> None:
    _read_from("http://store.invalid")


@contextmanager
def _pinned() -> Iterator[tuple[Path, Pin]]:
    """A shard of four images with checksums, as a run pinned it."""
    with tempfile.TemporaryDirectory() as folder:
        shard = Path(folder) / "train-000.tar"
        with tarfile.open(shard, "w") as tar:
            for number in range(4):
                held = io.BytesIO()
                Image.fromarray(np.full((8, 8), 60 * number, np.uint8)).save(held, "PNG")
                member = tarfile.TarInfo(f"{number}.png")
                member.size = held.tell()
                tar.addfile(member, io.BytesIO(held.getvalue()))
        assert all(each.made for each in checksums.index_all(list_shards(folder), None))
        yield shard, pin([CorpusSpec(url=folder)])


def _read(pinned: Pin) -> None:
    with patch.object(fetch, "_FIRST_PAUSE_S", 0.0):
        Fetcher(pinned).fetch([Wanted(0, 2)])


def missing_shard() -> None:
    with _pinned() as (shard, pinned):
        shard.unlink()
        _read(pinned)


def cut_shard() -> None:
    with _pinned() as (shard, pinned):
        shard.write_bytes(shard.read_bytes()[:600])
        _read(pinned)


def flipped_byte() -> None:
    with _pinned() as (shard, pinned):
        stamp, data = shard.stat().st_mtime_ns, bytearray(shard.read_bytes())
        at = data.index(b"IDAT", data.index(b"2.png"))
        data[at] ^= 1
        shard.write_bytes(data)
        os.utime(shard, ns=(stamp, stamp))
        _read(pinned)


def damaged_checkpoints() -> None:
    log = Log(MemoryStore())
    log.append(lambda history: Draft("open", None, {}, run="r"))
    submit = protocol.submit(log, launcher="local", code="c", bounds={})
    assert submit is not None
    attempt = protocol.claim(log, submit=submit, job="j", restart=0, topology={}, machine={}).attempt
    protocol.commit(log, attempt, step=9, manifest="m", size=1, seconds=1.0)

    def damaged(commit: Commit) -> None:
        raise CheckpointError(Fault(commit.folder, "rank-0.safetensors: block 3 is damaged"))

    protocol.resume(log, protocol.claim(log, submit=submit, job="j", restart=1, topology={}, machine={}), damaged)


def not_finite() -> None:
    result, *_ = train(Engine(bad_steps=(2, 3, 4)), total=8)
    if result == "not_finite":
        raise NotFinite
