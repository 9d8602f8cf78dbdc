"""CPU seconds of commands and of a worker's start, beside their goals: `python -m benchmarks.command_line`.

Seconds of CPU (user and system, of the command and its children) say on a busy machine what wall time says on an idle
one. Commands are measured in turn, each in a process of its own. SLURM's tools are stand-ins that note each call and
print next to nothing, so no scheduler is needed; the object store that a job names is never reached.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import yaml

from benchmarks.rows import Row, interleaved, markdown, ratio_of, write_json
from gmml_cluster.evaluate.demo.digits import pack_digits
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run

TOOLS = ("sbatch", "scancel", "scontrol", "squeue", "srun")
_GMML = "from gmml_cluster.cli.main import gmml; gmml()"
_SUBMIT = "from gmml_cluster.cli.submit import main; main()"
_WORKER = """
import os
import torch
import torch.distributed as dist
import gmml_cluster.evaluate.in_training
import gmml_cluster.train.attempt
from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.build import make_engine
from torch import nn

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
optim = Optim.model_validate({"lr": 0.1, "lr_per": None, "schedule": {"warmup": "1 steps"}})
engine = make_engine(nn.Linear(2, 2), engine=EngineSpec(zero=1), optim=optim, device=torch.device("cpu"))
engine.backward(engine.forward(torch.ones(2, 2)).sum(), last=True)
engine.step(0.1, 0.0, torch.zeros(1, dtype=torch.float64))
os._exit(0)  # as ranks leave
"""


@dataclass(frozen=True)
class Command:
    """What is measured.

    Attributes:
        code: what a new Python runs.
        words: arguments of the command.
        goal_s: seconds of CPU.
    """

    name: str
    code: str
    words: tuple[str, ...]
    goal_s: float


def commands(folder: Path, runs: int) -> list[Command]:
    """What is measured, of the files that `prepared` made."""
    jobs = ("local.yaml", "slurm.yaml")
    local, slurm = (("job.yaml", "--cluster", name, "--dry-run") for name in jobs)
    counted = "data.corpora=[{url: 's3://corpus/train-{0000..9999}.tar', samples: 10000000}]"
    few, many = str(folder / "few"), str(folder / "many")
    return [
        Command("gmml --help", _GMML, ("--help",), 0.35),
        Command("gmml status, 3 runs", _GMML, ("status", "--root", few), 0.4),
        Command(f"gmml status, {runs} runs", _GMML, ("status", "--root", many), 0.4 + 0.005 * runs),
        Command("dry run on this machine", _SUBMIT, local, 1.0),
        Command("dry run on SLURM, corpora on S3 with `samples`", _SUBMIT, (*slurm, counted), 1.0),
        Command("a worker's imports and first step, ZeRO-1", _WORKER, (), 3.0),
        Command("of these torch", "import torch", (), 3.0),
    ]


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--runs", type=int, default=500, help="of the longer listing")
    parser.add_argument("--json", type=Path, help="where to write the rows too")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepared(folder, given.runs)
        measured = commands(folder, given.runs)
        seconds = interleaved({each.name: partial(cpu_s, each, folder) for each in measured}, given.rounds)
        listing = next(each for each in measured if str(folder / "many") in each.words)
        calls = calls_of(listing, folder)
    rows = [row_of(each, seconds[each.name]) for each in measured]
    print(markdown(rows))
    tools = ", ".join(call.partition(" ")[0] for call in calls)
    print(f"\nSLURM's tools called by a listing of {given.runs} runs: {tools or 'none'}.")
    if given.json:
        write_json(rows, given.json)


def row_of(command: Command, seconds: Sequence[float]) -> Row:
    """A row of the table."""
    goals = [command.goal_s] * len(seconds)
    return Row(
        command.name,
        f"its goal, {command.goal_s:g} s",
        ratio_of(seconds, goals),
        at_most=1.0,
        unit="s of CPU",
        value=statistics.median(seconds),
    )


def prepared(folder: Path, runs: int) -> None:
    """A job, profiles, stand-ins for SLURM's tools, and two roots with runs that are queued there."""
    pack_digits(folder / "digits")
    corpora = [{"url": f"{folder}/digits/train/*.tar"}]
    job = {
        "name": "measured",
        "model": {"size": "large", "patch_size": 16},
        "method": {"name": "gmml"},
        "data": {"corpora": corpora, "image_size": 224},
        "batch": {"size": 1024},
        "run": {"epochs": 100},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    for launcher in ("local", "slurm"):
        profile = {"launcher": launcher, "root": str(folder / "runs")}
        (folder / f"{launcher}.yaml").write_text(yaml.safe_dump(profile | _nodes(launcher)))
    (folder / "tools").mkdir()
    for tool in TOOLS:
        path = folder / "tools" / tool
        answer = 'case "$*" in *--test-only*) ;; *) echo "Submitted batch job 17" ;; esac' if tool == "sbatch" else ""
        path.write_text(f'#!/bin/sh\necho "{tool} $*" >> "{folder}/calls"\n{answer}\n')
        path.chmod(0o755)
    for root, count in (("few", 3), ("many", runs)):
        for number in range(count):
            queued(folder / root, number)


def _nodes(launcher: str) -> dict[str, object]:
    return {"slurm": {"gpus_per_node": 1, "gpu_memory": "80 GiB"}} if launcher == "slurm" else {}


def queued(root: Path, number: int) -> None:
    """A run that an attempt trains as a job of SLURM."""
    log = create_run(str(root), f"run-{number:04d}", {}, {"spec": "0", "code": "0", "versions": {}}).log
    token = protocol.submit(log, launcher="slurm", code="0", bounds={})
    protocol.queued(log, token, str(1000 + number))
    protocol.claim(log, submit=token, job=str(1000 + number), restart=0, topology={}, machine={})


def cpu_s(command: Command, folder: Path) -> float:
    """Seconds of CPU of one call."""
    before = os.times()
    called(command, folder)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def calls_of(command: Command, folder: Path) -> list[str]:
    """SLURM's tools that one call starts, with their arguments, in their order."""
    calls = folder / "calls"
    calls.write_text("")
    called(command, folder)
    return calls.read_text().splitlines()


def called(command: Command, folder: Path) -> str:
    """What the command prints; it must succeed."""
    environment = {
        **os.environ,
        "HOME": str(folder),
        "PATH": f"{folder}/tools:{os.environ['PATH']}",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1]),
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("XDG_STATE_HOME", None)
    words = [sys.executable, "-c", command.code, *command.words]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command.name}: {done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
