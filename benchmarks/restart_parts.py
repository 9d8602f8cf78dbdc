"""From kill -9 of a rank, and from a notice, to the next new step, in parts: `python -m benchmarks.restart_parts`.

A small run of two ranks on this machine goes on from its last checkpoint after each kill; at a notice it saves before
it leaves. The last table is what a standby process could save: a worker's imports, in a process of their own and as a
fork of one that has made them.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

_IMPORTS = "import gmml_cluster.train.attempt, gmml_cluster.evaluate.in_training"
# What a standby does before it is needed is left out of its time: it waits for the byte with everything imported.
_FORK = f"""
import os, time
{_IMPORTS}
began = time.monotonic()
pid = os.fork()
if pid == 0:
    os._exit(0)
os.waitpid(pid, 0)
print(time.monotonic() - began)
"""
_JOB = {
    "name": "killed",
    "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
    "method": {"name": "mae", "decoder_width": 32, "decoder_depth": 1},
    "data": {"image_size": 16, "normalise": "half", "group": 4, "lanes": 4},
    "batch": {"size": 32, "micro": 8},
    "optim": {"lr": 1e-3, "lr_per": None, "schedule": {"warmup": "5 steps"}},
    "run": {"steps": 100000},
    "engine": {"zero": 1},
    "checkpoint": {"every": "20 steps", "keep": 2},
}

Parts = dict[str, float]
"""Seconds by name."""


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="and as many notices")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        kills, notices = restarts(Path(folder), given.kills)
    _print("kill -9 to the next new step", kills)
    _print("notice to a landed manifest", [landed for landed, _ in notices])
    _print("requeue to the first new step", [again for _, again in notices])
    _print("a worker's imports", [imports() for _ in range(given.kills)])


def imports() -> Parts:
    """Seconds of a worker's imports in a new process, and of a fork of one that has made them."""
    began, before = time.monotonic(), os.times()
    subprocess.run([sys.executable, "-c", _IMPORTS], check=True)
    alone_s, after = time.monotonic() - began, os.times()
    cpu_s = after.children_user + after.children_system - before.children_user - before.children_system
    forked = subprocess.run([sys.executable, "-c", _FORK], check=True, capture_output=True, text=True)
    return {"new process": alone_s, "new process, seconds of CPU": cpu_s, "fork": float(forked.stdout)}


def restarts(folder: Path, times: int) -> tuple[list[Parts], list[tuple[Parts, Parts]]]:
    """Parts of the restart after each kill, of each save at a notice and of the restart after it."""
    _call(folder, sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(folder / "digits"))
    corpora = [{"url": f"{folder}/digits/train/*.tar"}]
    (folder / "job.yaml").write_text(yaml.safe_dump({**_JOB, "data": {**_JOB["data"], "corpora": corpora}}))
    profile = {"launcher": "local", "root": str(folder / "runs"), "ranks_per_node": 2}
    (folder / "here.yaml").write_text(yaml.safe_dump(profile))
    _gmml(folder, "gmml-submit", "job.yaml", "--cluster", "here.yaml")
    try:
        kills = [_kill(folder, number) for number in range(1, times + 1)]
        return kills, [_notice(folder, number) for number in range(times + 1, 2 * times + 1)]
    finally:
        _gmml(folder, "gmml", "cancel", "killed")
        _until(lambda: [e["kind"] for e in _entries(folder) if e["attempt"] == _last(folder)][-1] == "end")


def _kill(folder: Path, attempt: int) -> Parts:
    """Kill rank 1 of an attempt once it has a checkpoint, and wait for the next attempt's first step."""
    _until(lambda: _entry(folder, attempt, "commit") is not None)
    victim = _until(lambda: _worker(folder, attempt - 1, rank=1))
    killed = time.time()
    os.kill(victim, signal.SIGKILL)
    parts, stepped = _restarted(folder, attempt)
    detected = _until(lambda: _entry(folder, attempt, "end"))["time"] - killed
    return {"detect: kill to `end`": detected, **parts, "in all": stepped - killed}


def _notice(folder: Path, attempt: int) -> tuple[Parts, Parts]:
    """Give both ranks notice, as a scheduler does; the parts up to the commit, and from the end on."""
    _until(lambda: _entry(folder, attempt, "commit") is not None)
    ranks = [_until(lambda rank=rank: _worker(folder, attempt - 1, rank=rank)) for rank in (0, 1)]
    given = time.time()
    for pid in ranks:
        os.kill(pid, signal.SIGTERM)
    parts, stepped = _restarted(folder, attempt)
    ended = _entry(folder, attempt, "end")
    commit = [e for e in _entries(folder) if (e["attempt"], e["kind"]) == (attempt, "commit")][-1]
    assert ended
    assert ended["cause"] == "notice"
    copied = commit["time"] - commit["seconds"]
    landed = {
        "agree: notice to the copy of the last step": copied - given,
        "of it waiting for a save in flight, and copying": commit["stall_s"],
        "write, upload, manifest, commit": commit["seconds"],
        "in all": commit["time"] - given,
    }
    since = {"leave: manifest to `end`": ended["time"] - commit["time"]}
    return landed, {**since, **parts, "in all, from the manifest on": stepped - commit["time"]}


def _restarted(folder: Path, attempt: int) -> tuple[Parts, float]:
    """Parts from an attempt's end to the next one's first step, and when that was made."""
    born = _until(lambda: _worker(folder, attempt, rank=0))
    started = time.time()
    begin = _until(lambda: _entry(folder, attempt + 1, "begin"))
    _until(lambda: " step " in _output(folder, attempt))
    stepped = time.time()
    assert born
    ended = _until(lambda: _entry(folder, attempt, "end"))["time"]
    claim = _entry(folder, attempt + 1, "claim")
    assert claim
    parts = {
        "teardown: to the new process": started - ended,
        "start of Python": begin["time"] - begin["start_s"] - started,
        "imports, meeting, claim": claim["start_s"],
        "build": begin["start_s"] - begin["load_s"] - claim["start_s"],
        "load": begin["load_s"],
        "first step": stepped - begin["time"],
    }
    return parts, stepped


def _last(folder: Path) -> int:
    return max(entry["attempt"] or 0 for entry in _entries(folder))


def _entries(folder: Path) -> list[dict[str, Any]]:
    read = [json.loads(path.read_text()) for path in sorted((folder / "runs/killed/log").glob("*.json"))]
    return [{**entry, **entry.get("fields", {})} for entry in read]


def _entry(folder: Path, attempt: int, kind: str) -> dict[str, Any] | None:
    found = (entry for entry in _entries(folder) if (entry["attempt"], entry["kind"]) == (attempt, kind))
    return next(found, None)


def _worker(folder: Path, restart: int, *, rank: int) -> int | None:
    """Process id of a rank of a start."""
    wanted = {b"gmml_cluster.train.worker", str(folder / "runs").encode()}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            environment = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if wanted <= set(words) and f"RANK={rank}".encode() in environment and words[-2] == str(restart).encode():
            return int(process.name)
    return None


def _output(folder: Path, restart: int) -> str:
    return "".join(path.read_text() for path in (folder / "state").rglob(f"{restart:03d}-rank0000.log"))


def _until(found: Callable[[], Any], limit_s: float = 300.0) -> Any:
    deadline = time.monotonic() + limit_s
    while not (value := found()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {limit_s} s")
        time.sleep(0.02)
    return value


def _gmml(folder: Path, program: str, *arguments: str) -> None:
    _call(folder, str(Path(sys.executable).parent / program), *arguments)


def _call(folder: Path, *command: str) -> None:
    home = {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    if Path(command[0]).name == "python":
        subprocess.run(command, check=True, env={**os.environ, **home})
    else:
        subprocess.run(command, check=True, env={**os.environ, **home}, cwd=folder)


def _print(title: str, rows: list[Parts]) -> None:
    print(f"\n| {title}, {len(rows)} times | median s | least | most |\n|---|---|---|---|")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


if __name__ == "__main__":
    main()
