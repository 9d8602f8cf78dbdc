"""A home, a root and a run in it; commands as a user gives them, and the processes that they start."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import yaml

from gmml_cluster.run.root import RunRoot

REPOSITORY = Path(__file__).parents[2]
RANKS = 2
WAIT_S = 900.0
JOB: dict[str, Any] = {
    "name": "soak",
    "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4, "drop_path": 0.1},
    "method": {"name": "gmml", "views": 2, "taps": [1, 2]},
    "data": {"image_size": 16, "augment": "gmml", "normalise": "half", "group": 4, "lanes": 4},
    "batch": {"size": 32, "micro": 8},
    "optim": {"lr": 1e-3, "lr_per": None, "schedule": {"warmup": "5 steps"}},
    "run": {"steps": 100_000},
    "engine": {"zero": 1},
    "checkpoint": {"every": "20 steps", "keep": 2, "keep_every": 200},
}
"""Far longer than it is trained: it is cancelled when all has been done, and keeps the schedule of the whole."""

T = TypeVar("T")


class Overdue(RuntimeError):
    """The run did not do in time what it was waited for."""


@dataclass
class Site:
    """One run.

    Attributes:
        folder: home and state of its processes, on a disk that is never full.
        root: folder or URL that the run lies under.
        environment: variables of its processes, such as the address of the proxy before the store.
        job: what is trained, without its corpora.
    """

    folder: Path
    root: str
    environment: Mapping[str, str] = field(default_factory=dict)
    job: Mapping[str, Any] = field(default_factory=lambda: JOB)

    @cached_property
    def run(self) -> RunRoot:
        """As this process sees it: past the proxy."""
        return RunRoot(self.root, self.job["name"])

    def prepare(self, digits: Path) -> None:
        """Write the job and the profile."""
        self.folder.mkdir(parents=True, exist_ok=True)
        job = {**self.job, "data": {**self.job["data"], "corpora": [{"url": f"{digits}/train/*.tar"}]}}
        profile = {"launcher": "local", "root": self.root, "ranks_per_node": RANKS}
        (self.folder / "job.yaml").write_text(yaml.safe_dump(job))
        (self.folder / "here.yaml").write_text(yaml.safe_dump(profile))

    def submit(self) -> None:
        """Start the run."""
        self.call("gmml-submit", "job.yaml", "--cluster", "here.yaml")

    def call(self, program: str, *arguments: str, may_fail: bool = False) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it failed; with all that it printed.
        """
        command = [str(Path(sys.executable).parent / program), *arguments]
        done = subprocess.run(command, env=self._environment, cwd=self.folder, capture_output=True, text=True)
        if done.returncode and not may_fail:
            raise RuntimeError(f"{program} {' '.join(arguments)}: {done.stdout}\n{done.stderr}")
        return done.stdout

    @property
    def _environment(self) -> dict[str, str]:
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state"), "DS_ACCELERATOR": "cpu"}
        here = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
        return {**os.environ, **home, **here, **self.environment}

    def status(self) -> dict[str, Any]:
        """`gmml status --json`; from another home, as any machine may ask."""
        found: dict[str, Any] = json.loads(self.call("gmml", "status", self.run.url, "--json"))
        return found

    def entries(self) -> list[dict[str, Any]]:
        """The log."""
        return [entry.document() for entry in self.run.log.read(0)]

    def ranks(self) -> dict[int, int]:
        """Process ids of the ranks that run now, by rank."""
        found = {}
        for process, words in self._processes(b"gmml_cluster.train.worker"):
            environment = _read(process / "environ").split(b"\0")
            rank = next((item[5:] for item in environment if item.startswith(b"RANK=")), None)
            if rank is not None and b"--restart" in words:
                found[int(rank)] = int(process.name)
        return found

    def supervisor(self) -> int | None:
        """Process id of the supervisor; None where none runs."""
        return next((int(p.name) for p, _ in self._processes(b"gmml_cluster.launch.local.supervisor")), None)

    def _processes(self, module: bytes) -> list[tuple[Path, list[bytes]]]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            words = _read(process / "cmdline").split(b"\0")
            if module in words and self.root.encode() in words:
                found.append((process, words))
        return found

    def kill_all(self) -> None:
        """End what still runs of it."""
        for pid in [self.supervisor(), *self.ranks().values()]:
            if pid is not None:
                send(pid, signal.SIGKILL)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended meanwhile
        return b""


def send(pid: int, number: signal.Signals) -> None:
    """Signal a process that may have ended by now."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def until(what: str, found: Callable[[], T | None], limit_s: float = WAIT_S, pause_s: float = 0.1) -> T:
    """Wait for something that is not None and not False.

    Raises:
        Overdue: it did not come.
    """
    deadline = time.monotonic() + limit_s
    while True:
        value = found()
        if value is not None and value is not False:
            return value
        if time.monotonic() > deadline:
            raise Overdue(f"{what}: not within {limit_s:g} s")
        time.sleep(pause_s)
