"""What Ray's road costs over the local launcher's: `python -m benchmarks.ray_cost --address http://127.0.0.1:8265`.

Each round trains the same small job by each launcher, one after the other, in an order drawn anew, so that whatever
else the machine does falls on both. The cluster, of this machine, runs all the time. A run's first steps do not count.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_SKIPPED = 20
_PARTS = ("`gmml-submit` returns", "from there to the first step", "both", "samples/s")
_JOB: dict[str, Any] = {
    "model": {"width": 96, "depth": 6, "heads": 3, "patch_size": 4},
    "method": {"name": "mae", "decoder_width": 32, "decoder_depth": 1},
    "data": {"image_size": 16, "normalise": "half", "group": 4, "lanes": 4},
    "batch": {"size": 64},
    "optim": {"lr": 1e-3, "lr_per": None, "schedule": {"warmup": "5 steps"}},
    "checkpoint": {"every": "100000 steps", "keep": 1},
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--address", required=True, help="of the dashboard of a cluster on this machine")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    given = parser.parse_args()
    seen: dict[str, list[dict[str, float]]] = {"local": [], "ray": []}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        _prepare(folder, given.address)
        for number in range(given.rounds):
            for launcher in random.sample(list(seen), len(seen)):
                seen[launcher].append(_run(folder, launcher, f"{launcher}-{number}", given.steps))
                print(f"round {number}, {launcher}: {seen[launcher][-1]}", file=sys.stderr)
    _print(seen)


def _prepare(folder: Path, address: str) -> None:
    digits = [sys.executable, "-m", "gmml_cluster.evaluate.demo.digits", str(folder / "digits")]
    subprocess.run(digits, check=True, stdout=subprocess.DEVNULL)
    profiles: dict[str, dict[str, Any]] = {
        "local": {"ranks_per_node": 1},
        "ray": {"ray": {"address": address}, "ranks_per_node": 1},
    }
    for launcher, sections in profiles.items():
        profile = {"launcher": launcher, "root": str(folder / "runs"), **sections}
        (folder / f"{launcher}.yaml").write_text(yaml.safe_dump(profile))


def _run(folder: Path, launcher: str, name: str, steps: int) -> dict[str, float]:
    """The parts of one run, in seconds, and its samples a second."""
    corpora = [{"url": f"{folder}/digits/train/*.tar"}]
    job = {**_JOB, "name": name, "run": {"steps": steps}, "data": {**_JOB["data"], "corpora": corpora}}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(job))
    began = time.time()
    _gmml(folder, "gmml-submit", f"{name}.yaml", "--cluster", f"{launcher}.yaml")
    submitted = time.time()
    while "end" not in (entries := _entries(folder / "runs" / name)):
        time.sleep(0.5)
    if entries["end"]["cause"] != "finished":
        raise RuntimeError(f"{name} ended as {entries['end']}")
    lines = [json.loads(line) for line in _gmml(folder, "gmml", "metrics", name, "--json").splitlines()]
    first = entries["begin"]["time"]
    rates = [line["samples_per_s"] for line in lines[_SKIPPED:]]
    values = (submitted - began, first - submitted, first - began, statistics.median(rates))
    return dict(zip(_PARTS, values, strict=True))


def _entries(run: Path) -> dict[str, dict[str, Any]]:
    """The last log entry of each kind."""
    read = [json.loads(path.read_text()) for path in sorted((run / "log").glob("*.json"))]
    return {entry["kind"]: {**entry, **entry.get("fields", {})} for entry in read}


def _gmml(folder: Path, program: str, *arguments: str) -> str:
    home = {"HOME": str(folder), "XDG_STATE_HOME": str(folder / "state"), "OMP_NUM_THREADS": "1"}
    command = [str(Path(sys.executable).parent / program), *arguments]
    return subprocess.run(
        command, check=True, cwd=folder, env={**os.environ, **home}, stdout=subprocess.PIPE, text=True
    ).stdout


def _print(seen: Mapping[str, list[dict[str, float]]]) -> None:
    print("| what, median (least to most) | local | Ray | Ray over local, by rounds |\n|---|---|---|---|")
    for part in _PARTS:
        values = {launcher: [row[part] for row in rows] for launcher, rows in seen.items()}
        ratios = [ray / local for ray, local in zip(values["ray"], values["local"], strict=True)]
        shown = " | ".join(_span(numbers, 1) for numbers in (values["local"], values["ray"]))
        print(f"| {part} | {shown} | {_span(ratios, 3)} |")


def _span(values: list[float], digits: int) -> str:
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


if __name__ == "__main__":
    main()
