"""A folder with a small job on digits, and a profile of each launcher: what `ray_cost` submits and reads."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

LAUNCHERS = ("local", "ray")
_JOB: dict[str, Any] = {
    "model": {"width": 96, "depth": 6, "heads": 3, "patch_size": 4},
    "method": {"name": "mae", "decoder_width": 32, "decoder_depth": 1},
    "data": {"image_size": 16, "normalise": "half", "group": 4, "lanes": 4},
    "batch": {"size": 64},
    "optim": {"lr": 1e-3, "lr_per": None, "schedule": {"warmup": "5 steps"}},
    "checkpoint": {"every": "100000 steps", "keep": 1},
}


@dataclass
class Site:
    """Where the commands run; both launchers put their runs under one root.

    Args:
        folder: empty.
        dashboard: of the Ray cluster.
    """

    folder: Path
    dashboard: str

    def __post_init__(self) -> None:
        digits = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(self.folder / "digits")]
        subprocess.run(digits, check=True, stdout=subprocess.DEVNULL)
        sections: dict[str, dict[str, Any]] = {"local": {}, "ray": {"ray": {"address": self.dashboard}}}
        for launcher in LAUNCHERS:
            profile = {"launcher": launcher, "root": str(self.folder / "runs"), "ranks_per_node": 1}
            (self.folder / f"{launcher}.yaml").write_text(yaml.safe_dump({**profile, **sections[launcher]}))

    def gmml(self, program: str, *arguments: str) -> str:
        """What a command prints."""
        home = {"HOME": str(self.folder), "XDG_STATE_HOME": str(self.folder / "state")}
        environment = {**os.environ, **home, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
        command = [str(Path(sys.executable).parent / program), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        return done.stdout

    def submit(self, launcher: str, name: str, steps: int) -> None:
        """Submit a run of one rank."""
        data = {**_JOB["data"], "corpora": [{"url": f"{self.folder}/digits/train/*.tar"}]}
        job = {**_JOB, "name": name, "run": {"steps": steps}, "data": data}
        (self.folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
        self.gmml("gmml-submit", f"{name}.yaml", "--cluster", f"{launcher}.yaml")

    def entry(self, name: str, kind: str) -> dict[str, Any]:
        """The last log entry of a kind; empty where there is none."""
        read = [json.loads(path.read_text()) for path in sorted((self.folder / "runs" / name / "log").glob("*.json"))]
        return next((entry for entry in reversed(read) if entry["kind"] == kind), {})

    def steps(self, name: str) -> tuple[float, list[dict[str, Any]]]:
        """When the first step of a run began, and its metric lines."""
        lines = [json.loads(line) for line in self.gmml("gmml", "metrics", name, "--json").splitlines()]
        return self.entry(name, "begin")["time"], lines

    def steps_made(self, name: str) -> int:
        """Of which metric lines have been written."""
        parts = (self.folder / "runs" / name).glob("attempts/*/metrics-*.jsonl")
        return sum(len(path.read_text().splitlines()) for path in parts)

    def rank(self, name: str) -> int | None:
        """Process id of the rank of a run."""
        wanted = {b"gmml_cluster.train.worker", str(self.folder / "runs").encode(), name.encode()}
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
                environment = (process / "environ").read_bytes().split(b"\0")
            except OSError:  # it has ended meanwhile
                continue
            # the supervisor's command has the same words, and no rank
            if wanted <= set(words) and b"RANK=0" in environment:
                return int(process.name)
        return None
