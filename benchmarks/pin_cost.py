"""What it takes to pin a corpus of many shards, on a folder and on an object store: `python -m benchmarks.pin_cost`.

The shards are indexed, as `gmml corpus pack` and `gmml corpus index` leave them, and hold nothing: no byte of theirs is
read by a pin. The object store is a process of its own that answers a listing a thousand names at a time, and every
request after a delay. Each pin is made by a process of its own, the kinds in turn.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from benchmarks.rows import Row, markdown, ratio_of, write_json
from benchmarks.slow_store import answering, listen, response, serving
from gmml_cluster.data.corpus import index, merged
from gmml_cluster.data.corpus.account import Account
from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pin import CorpusUrl, Pin, pin
from gmml_cluster.data.corpus.tar import Sample
from gmml_cluster.store.posix import PosixStore

PAGE = 1000
GOALS = {"folder": 3.0, "s3": 20.0}
_SAMPLES = [Sample(f"{y:06d}.jpg", 512 * y, 300, y % 10) for y in range(4)]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=100_000)
    parser.add_argument("--delay", type=int, default=50, help="ms a request of the object store")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where to write the rows too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, store(given.shards, given.delay) as port:
        make_folder(Path(folder, "corpus"), given.shards)
        os.environ.update(AWS_ACCESS_KEY_ID="k", AWS_SECRET_ACCESS_KEY="s", AWS_DEFAULT_REGION="us-east-1")
        os.environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{port}"
        urls = {"folder": f"{folder}/corpus", "s3": "s3://corpus"}
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in urls}
        for _ in range(given.rounds):
            for kind, url in urls.items():
                found[kind].append(measured(url, f"{folder}/indexes"))
    rows = [row_of(kind, found[kind], given) for kind in urls]
    print(markdown(rows))
    for kind, each in found.items():
        print(f"{kind}: {statistics.median(one['cpu_s'] for one in each):.1f} s of CPU", file=sys.stderr)
    print(f"\nThe pin has {found['folder'][0]['bytes'] / 2**20:.1f} MiB.")
    if given.json:
        write_json(rows, given.json)


def row_of(kind: str, found: Sequence[Mapping[str, float]], given: argparse.Namespace) -> Row:
    """A row of the table."""
    seconds = [each["wall_s"] for each in found]
    where = "a folder" if kind == "folder" else f"an object store, {given.delay} ms a request"
    ratio = ratio_of(seconds, [GOALS[kind]] * len(seconds))
    figure, over = f"pin of {given.shards:,} shards on {where}", f"its goal, {GOALS[kind]:g} s"
    return Row(figure, over, ratio, at_most=1.0, unit="s", value=statistics.median(seconds))


def measured(url: str, indexes: str) -> dict[str, float]:
    """A pin in a process of its own: seconds, seconds of CPU, and bytes of the document."""
    command = [sys.executable, "-c", "from benchmarks.pin_cost import one; one()", url, indexes]
    found: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return found


def one() -> None:
    """Pin the corpus that the arguments name, write and read the document, and print what it took."""
    url, indexes = sys.argv[1:]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    data = pin([CorpusUrl(url)], PosixStore(indexes)).to_bytes()
    Pin.from_bytes(data)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(json.dumps({"wall_s": time.monotonic() - began, "cpu_s": cpu_s, "bytes": len(data)}))


def make_folder(folder: Path, shards: int) -> None:
    """A folder of shards and their indexes, and of what the indexes say in one object."""
    folder.mkdir()
    files = []
    for number in range(shards):
        path = folder / shard_name(number)
        path.write_bytes(b"x")
        path.with_name(f"{path.name}.index").touch()
        files.append(ShardFile(str(path), 1, str(path.stat().st_mtime_ns)))
    merged.put(files, headers(files), None)


def headers(files: list[ShardFile]) -> list[index.Header]:
    """What checked indexes of the shards would say."""
    made = index.assemble(files[0], _SAMPLES, Account(), crcs=[1, 2, 3, 4])
    return [index.with_version(made, file.version).header for file in files]


def shard_name(number: int) -> str:
    """Name of a shard."""
    return f"train-{number:06d}.tar"


class Listed:
    """The part of S3 that a pin needs: listings in pages, and GET of one object."""

    def __init__(self, shards: int) -> None:
        files = [ShardFile(f"s3://corpus/{shard_name(n)}", 1, f"{n:032x}") for n in range(shards)]
        with tempfile.TemporaryDirectory() as folder:
            indexes = PosixStore(folder)
            merged.put(files, headers(files), indexes)
            self._merged = b"".join(indexes.get(found.name) for found in indexes.list_objects())
        names = [name for file in files for name in (file.name, f"{file.name}.index")]
        tags = {file.name: file.version for file in files}
        self._items = [(name, tags.get(name, "0" * 32)) for name in names]

    def answer(self, head: str) -> tuple[bytes, ...]:
        """Status line, headers and body."""
        method, target, _ = head.split("\r\n", 1)[0].split(" ")
        url = urlsplit(target)
        asked = parse_qs(url.query)
        if "list-type" in asked:
            prefix = asked.get("prefix", [""])[0]
            page = self._page(int(asked.get("continuation-token", ["0"])[0])) if not prefix else _listing([], None)
            return response("200 OK", page, "")
        if url.path.endswith(f"/{merged.NAME}"):
            return response("200 OK", self._merged, f'ETag: "{0:032x}"\r\n')
        return response("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>", "", body=method != "HEAD")

    def _page(self, start: int) -> bytes:
        following = start + PAGE if start + PAGE < len(self._items) else None
        return _listing(self._items[start : start + PAGE], following)


def _listing(items: list[tuple[str, str]], following: int | None) -> bytes:
    about = "<LastModified>2026-01-01T00:00:00.000Z</LastModified><Size>1</Size><StorageClass>STANDARD</StorageClass>"
    rows = "".join(f'<Contents><Key>{name}</Key><ETag>"{tag}"</ETag>{about}</Contents>' for name, tag in items)
    token = "" if following is None else f"<NextContinuationToken>{following}</NextContinuationToken>"
    more = f"<IsTruncated>{'false' if following is None else 'true'}</IsTruncated>{token}"
    return f'<?xml version="1.0"?><ListBucketResult><Name>corpus</Name>{more}{rows}</ListBucketResult>'.encode()


def store(shards: int, delay_ms: int) -> contextlib.AbstractContextManager[int]:
    """Port of an object store that holds the corpus; its process is stopped at the end."""
    return serving("-c", "from benchmarks.pin_cost import serve; serve()", str(shards), str(delay_ms))


def serve() -> None:
    """Run the object store of the arguments, and print its port."""
    shards, delay_ms = map(int, sys.argv[1:])
    asyncio.run(listen(answering(Listed(shards).answer, delay_ms / 1000)))


if __name__ == "__main__":
    main()
