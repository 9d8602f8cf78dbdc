"""The ranks that compute a piece again: started as the local supervisor starts them, without a supervisor."""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gmml_cluster
from gmml_cluster.errors import Fault, PreflightError, RunFailed
from gmml_cluster.launch import imports
from gmml_cluster.launch.local.ranks import STOP, Ranks, SupervisedJob
from gmml_cluster.launch.protocol import TRAIN_MODULE
from gmml_cluster.launch.replay.scratch import Scratch
from gmml_cluster.launch.snapshot import cache_folder, holds_file, unpack
from gmml_cluster.plan.machine import this_machine
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.step_range import Conditions, Piece

MARK = "gmml_cluster/train/checkpoints/compare.py"
"""A file that code has since it can be replayed."""
_LOOK_S = 1.0
_PROGRESS = re.compile(r"step \d+ of \d+ .*")
Show = Callable[[str], None]


def refuse_impossible(where: str, conditions: Conditions, deterministic: bool) -> list[str]:
    """Notes on what may keep the figures from being equal here, before anything is started.

    Raises:
        PreflightError: such ranks cannot be had on this machine.
    """
    ranks, machine = conditions.topology["ranks"], conditions.machine
    lacking = imports.missing(["torch"] if conditions.topology["zero"] == "ddp" else ["torch", "deepspeed"])
    if lacking:
        raise PreflightError(imports.fault(lacking, sys.executable, where))
    gpus, wanted = this_machine().gpus, ranks if on_gpu(conditions) else 0
    if gpus < wanted:
        problem = f"was computed by {ranks} ranks on {machine.get('device')}; this machine has {gpus} GPUs"
        raise PreflightError(Fault(where, problem, f"replay it on a machine that has {ranks} of them"))
    if wanted and not deterministic:
        return ["engine.deterministic is off: on GPUs two computations may differ in the last bit"]
    return []


def on_gpu(conditions: Conditions) -> bool:
    """Whether the recorded ranks computed on GPUs: only then a claim names CUDA."""
    return "cuda" in conditions.machine


def environment_of(conditions: Conditions, code: Path) -> dict[str, str]:
    """Variables of the ranks: threads and NCCL's as recorded, no GPU where none was used, the code first."""
    threads = conditions.topology.get("threads")
    path = os.pathsep.join([str(code), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        **conditions.machine.get("nccl_environment", {}),
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        **({} if on_gpu(conditions) else {"CUDA_VISIBLE_DEVICES": ""}),
        "PYTHONPATH": path,
    }


def code_folder(run: RunRoot, digest: str, *, installed: bool) -> Path:
    """Folder of the packages that the ranks import: the code of the run, or what is installed here.

    Raises:
        PreflightError: the run's code is older than replays.
    """
    if installed:
        return Path(gmml_cluster.__file__).parent.parent
    data = run.code(digest)
    if not holds_file(data, MARK):
        hint = f"gmml replay {run.name} --code computes with what is installed here"
        raise PreflightError(Fault(f"code {digest[:12]}", "is of a version that cannot be replayed", hint))
    return unpack(data, digest, cache_folder())


def compute(scratch: Scratch, piece: Piece, environment: Mapping[str, str], show: Show) -> int:
    """Compute one piece; returns the last step that was made, its state being committed in the scratch run.

    Raises:
        RunFailed: the ranks ended before it; says why.
    """
    run = scratch.run
    token = scratch.submit(piece)
    ranks = piece.conditions.topology["ranks"]
    job = SupervisedJob(root=run.root, run=run.name, submit=token, id="replay", ranks=ranks, module=TRAIN_MODULE)
    command = [*job.worker(0), "--until", str(piece.last)]
    with _stops_blocked(), _progress(job.output(0, 0), show), Ranks(job, 0, command, environment) as started:
        started.wait()
    attempts = run.log.refresh().attempts
    last = attempts[-1] if attempts and attempts[-1].submit == token else None
    if last is not None and last.last_step is not None and last.ended in ("finished", "not_finite"):
        return last.last_step
    raise RunFailed(Fault(scratch.source.url, f"steps {piece.first} to {piece.last}: {_why(scratch, token, job)}"))


def _why(scratch: Scratch, token: str, job: SupervisedJob) -> str:
    """What ended the ranks: the log's word, else the last line of rank 0."""
    history = scratch.run.log.refresh()
    last = history.attempts[-1] if history.attempts else None
    if last is not None and last.submit == token and last.ended:
        return f"the replay ended with {last.ended}; {last.details.get('message', '')}".rstrip("; ")
    if history.submit is not None and history.submit.failed:
        return f"the replay did not start; {history.submit.failed}"
    output = job.output(0, 0)
    lines = output.read_text(errors="replace").strip().splitlines() if output.exists() else []
    return f"the ranks left without a word; the first ends with {(lines or ['nothing'])[-1]!r}"


@contextmanager
def _stops_blocked() -> Iterator[None]:
    """`Ranks.wait` takes these signals itself and gives the ranks notice."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _progress(output: Path, show: Show) -> Iterator[None]:
    """Show what rank 0 says of its progress, while it says it."""
    ended = threading.Event()

    def follow() -> None:
        shown = 0
        while not ended.wait(_LOOK_S):
            said = _PROGRESS.findall(output.read_text(errors="replace")) if output.exists() else []
            for line in said[shown:]:
                show(line)
            shown = len(said)

    thread = threading.Thread(target=follow, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def versions_differ(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What grade B depends on and is not as it was recorded, a sentence each; where it ran is no part of that."""
    names = [name for name in dict.fromkeys([*recorded, *here]) if name not in ("host", "nodes")]
    return [
        f"{name} was {recorded.get(name)!r} and is {here.get(name)!r} here"
        for name in names
        if recorded.get(name) != here.get(name)
    ]
