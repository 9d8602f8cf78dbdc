"""Where the disturbed run lies: in an object store behind a proxy, or in a small file system of its own."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.soak.plan import ON_A_FOLDER, ON_A_STORE, Kind
from tests.fixtures.proxy import Proxy
from tests.fixtures.s3 import running_s3

_SIZE = "64m"


@dataclass(frozen=True)
class Storage:
    """A root for a run.

    Attributes:
        name: what it is, for the report.
        environment: variables by which processes of the run reach it.
        proxy: before it; None for a folder.
        full: folder of the file system that may be filled; None where there is none.
        without: what cannot be done to a run there.
        why: the reason, where that is a lack of this machine.
    """

    name: str
    root: str
    environment: Mapping[str, str] = field(default_factory=dict)
    proxy: Proxy | None = None
    full: Path | None = None
    without: tuple[Kind, ...] = ()
    why: str = ""


@contextmanager
def on_s3(proxy_of: type[Proxy] = Proxy) -> Iterator[Storage]:
    """SeaweedFS behind a proxy; this process reaches it past the proxy."""
    with running_s3() as server, proxy_of(server.endpoint).running() as proxy:
        before = {name: os.environ.get(name) for name in server.environment}
        os.environ.update(server.environment)
        try:
            theirs = {**server.environment, "AWS_ENDPOINT_URL": proxy.url}
            root = f"s3://{server.make_bucket()}/runs"
            yield Storage("SeaweedFS behind a proxy", root, theirs, proxy=proxy, without=ON_A_FOLDER)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextmanager
def on_folder(folder: Path) -> Iterator[Storage]:
    """A file system in memory that holds little more than the run; a plain folder where none may be mounted."""
    place = folder / "small"
    place.mkdir(exist_ok=True)
    mount = shutil.which("mount")
    command = [mount or "mount", "-t", "tmpfs", "-o", f"size={_SIZE}", "tmpfs", str(place)]
    mounted = mount is not None and subprocess.run(command, capture_output=True).returncode == 0
    try:
        if mounted:
            yield Storage(f"a file system of {_SIZE}", str(place / "runs"), full=place, without=ON_A_STORE)
        else:
            why = "no file system may be mounted here (that takes root's rights), so no disk was filled"
            yield Storage("a folder", str(place / "runs"), without=(*ON_A_STORE, *ON_A_FOLDER), why=why)
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
