"""An object store with latency: shards in memory behind a proxy that delays every request, each a process of its own.

Both are small on purpose: what is measured is the reader, so neither may be the limit (`plain_gets` shows it).
"""

import argparse
import asyncio
import contextlib
import hashlib
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

_LIMIT_BYTES = 2**24
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Server:
    """The part of S3 that a reader needs: GET with a range, HEAD, and ListObjectsV2; signatures are not checked."""

    def __init__(self, folder: Path, copies: int) -> None:
        shards = {path.stem: path.read_bytes() for path in sorted(folder.glob("*.tar"))}
        self.objects = {f"{stem}-{k}.tar": data for k in range(copies) for stem, data in shards.items()}
        self.etags = {name: hashlib.md5(name.encode()).hexdigest() for name in self.objects}

    def answer(self, head: str) -> tuple[bytes, ...]:
        """Status line, headers and body."""
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        url = urlsplit(target)
        name = url.path.lstrip("/").partition("/")[2]  # behind the bucket, which may have any name
        if "list-type" in parse_qs(url.query):
            return response("200 OK", self._listing(parse_qs(url.query).get("prefix", [""])[0]), "")
        if name not in self.objects:
            return response("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>", "", body=method != "HEAD")
        data, tag = self.objects[name], f'ETag: "{self.etags[name]}"\r\n'
        asked = re.search(r"(?i)\r\nrange: *bytes=(\d+)-(\d*)", head)
        if asked is None or method == "HEAD":
            return response("200 OK", data, tag, body=method != "HEAD")
        start, stop = int(asked[1]), min(int(asked[2] or len(data)) + 1, len(data))
        part = memoryview(data)[start:stop]
        return response("206 Partial Content", part, f"{tag}Content-Range: bytes {start}-{stop - 1}/{len(data)}\r\n")

    def _listing(self, prefix: str) -> bytes:
        item = '<Contents><Key>{}</Key><Size>{}</Size><ETag>"{}"</ETag></Contents>'
        found = [item.format(n, len(d), self.etags[n]) for n, d in sorted(self.objects.items()) if n.startswith(prefix)]
        result = f"<Name>corpus</Name><IsTruncated>false</IsTruncated>{''.join(found)}"
        return f'<?xml version="1.0"?><ListBucketResult>{result}</ListBucketResult>'.encode()


def response(status: str, data: bytes | memoryview, fields: str, *, body: bool = True) -> tuple[bytes, ...]:
    """Status line, headers and, where asked for, body of an answer."""
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(data)}\r\n{fields}\r\n".encode()
    return (head, bytes(data)) if body else (head,)


def answering(answer: Callable[[str], tuple[bytes, ...]], delay_s: float = 0.0) -> Handler:
    """Serves one connection: each request is answered after a delay, by what `answer` gives for its head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(delay_s)
                writer.writelines(answer(head.decode("latin-1")))
                await writer.drain()
        writer.close()

    return serve


async def listen(handler: Handler) -> None:
    """Serve on a free port, which is printed, until the process is killed."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, limit=_LIMIT_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextlib.contextmanager
def serving(*command: str) -> Iterator[int]:
    """Port of a server that `python COMMAND` runs and prints; its process is stopped at the end."""
    with subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield int(process.stdout.readline())
        finally:
            process.kill()


class Proxy:
    """Passes requests on after a delay; answers are passed back at once. One connection upstream for each of ours."""

    def __init__(self, upstream: int, delay_s: float) -> None:
        self.upstream, self.delay_s = upstream, delay_s

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on one connection."""
        back, onward = await asyncio.open_connection("127.0.0.1", self.upstream, limit=_LIMIT_BYTES)
        answers = asyncio.create_task(_copy(back, writer))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(self.delay_s)
                onward.write(head)
                await onward.drain()
        onward.close()
        await answers


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(2**18):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.contextmanager
def slow_stores(folder: Path, copies: int, delays_ms: list[int]) -> Iterator[dict[int, int]]:
    """Port of a proxy for each delay, all before one server; stopped at the end."""
    this = ("-m", "benchmarks.slow_store")
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(serving(*this, "serve", str(folder), str(copies)))
        yield {delay: stack.enter_context(serving(*this, "delay", str(port), str(delay))) for delay in delays_ms}


async def plain_gets(port: int, name: str, length: int, *, connections: int, seconds: float) -> float:
    """Ranges of an object that plain sockets get in a second, with nothing done to them."""
    count, end = 0, time.monotonic() + seconds

    async def client() -> None:
        nonlocal count
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_LIMIT_BYTES)
        request = f"GET /corpus/{name} HTTP/1.1\r\nHost: x\r\nRange: bytes=512-{length + 511}\r\n\r\n".encode()
        while time.monotonic() < end:
            writer.write(request)
            await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(length)
            count += 1
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(connections)))
    return count / (time.monotonic() - began)


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=["serve", "delay"])
    parser.add_argument("source", help="folder of shards, or port of the server")
    parser.add_argument("number", type=int, help="copies of each shard, or milliseconds")
    given = parser.parse_args()
    if given.role == "serve":
        asyncio.run(listen(answering(Server(Path(given.source), given.number).answer)))
    else:
        asyncio.run(listen(Proxy(int(given.source), given.number / 1000).serve))


if __name__ == "__main__":
    _main()
