"""`gmml replay`: steps of a run are computed again from a checkpoint, and compared with what the run recorded."""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.launch.local import lock
from gmml_cluster.launch.replay.ranks import (
    Show,
    code_folder,
    compute,
    environment_of,
    refuse_impossible,
    versions_differ,
)
from gmml_cluster.launch.replay.scratch import Scratch, make_scratch
from gmml_cluster.outputs.run import ReplayCheckpointOutput, ReplayOutput, ReplayTopologyOutput
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.history import Commit
from gmml_cluster.run.results.comparison import Parting, parting
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.step_range import Piece, StepRange, choose, commits_of, pieces, stretches
from gmml_cluster.run.uploads import Line, metric_lines
from gmml_cluster.wording import counted

_COMPARE = "gmml_cluster.train.checkpoints.compare"


@dataclass
class Replayed:
    """What a replay found.

    Attributes:
        steps_compared: steps of which both have a metric line.
        parts: the first step whose figures differ.
        checkpoints: of each checkpoint that was compared its `step` and what `train.checkpoints.compare` found.
        warnings: why equality is not promised here, a sentence each.
    """

    run: RunRoot
    steps: StepRange
    pieces: list[Piece]
    steps_compared: int = 0
    parts: Parting | None = None
    checkpoints: list[ReplayCheckpointOutput] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether nothing that was compared differs."""
        return self.parts is None and not any(differs(found) for found in self.checkpoints)

    def document(self) -> ReplayOutput:
        """For programs (docs/outputs.md)."""
        start = self.steps.start
        return {
            "version": 1,
            "run": self.run.name,
            "url": self.run.url,
            "from": self.steps.first,
            "to": self.steps.last,
            "resumed": None if start is None else start.folder,
            "topologies": [_topology(piece) for piece in self.pieces],
            "equal": self.equal,
            "steps_compared": self.steps_compared,
            "parts": None if self.parts is None else {"step": self.parts.step, "fields": dict(self.parts.fields)},
            "checkpoints": self.checkpoints,
            "warnings": self.warnings,
        }


def _topology(piece: Piece) -> ReplayTopologyOutput:
    return cast(ReplayTopologyOutput, {"first_step": piece.first, **piece.conditions.topology})


def differs(found: ReplayCheckpointOutput) -> bool:
    """Whether two checkpoints differ in a tensor, in its presence, or in the state beside tensors."""
    return bool(found["differing"] or found["missing"] or found["state"])


def replay(run: RunRoot, *, first: int | None, last: int | None, installed: bool, show: Show) -> Replayed:
    """Compute steps again on this machine; stops at the first piece that differs.

    Args:
        run: is only read.
        first: a step that is to be among them; None for the steps between the last two checkpoints.
        last: its last step; None for that of the next checkpoint.
        installed: whether the ranks run what is installed here instead of the run's own code.
        show: called with lines on how far it is.

    Raises:
        SpecError: the run has no such steps.
        PreflightError: this machine cannot have such ranks, or the code cannot be replayed.
        RunFailed: the ranks failed.
    """
    history, entries = run.log.refresh(), list(run.log.read())
    recorded = metric_lines(run.store, history)
    steps = choose(history, run.url, first=first, last=last, known=recorded[-1]["step"] if recorded else None)
    wanted = pieces(steps, stretches(entries), commits_of(history))
    done = Replayed(run, steps, wanted)
    with _folder() as folder:
        codes = _checked(done, installed)
        begin = "its beginning" if steps.start is None else f"the checkpoint of step {steps.start.step}"
        show(f"steps {steps.first} to {steps.last} of {run.name}, from {begin}")
        scratch = make_scratch(run, entries, steps, folder)
        try:
            for piece, code in zip(wanted, codes, strict=True):
                if not _replay(done, scratch, piece, code, recorded, show):
                    break
        finally:
            lock.forget(scratch.run.root, scratch.run.name)
    return done


@contextmanager
def _folder() -> Iterator[Path]:
    """A folder for the scratch run, below TMPDIR; it takes one checkpoint and one more."""
    folder = Path(tempfile.mkdtemp(prefix="gmml-replay-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _checked(done: Replayed, installed: bool) -> list[Path]:
    """The code of each piece; notes what is known beforehand to keep figures from being equal."""
    codes = []
    for piece in done.pieces:
        job = done.run.job(piece.conditions.changed)
        where = f"steps {piece.first} to {piece.last} of {done.run.name}"
        _warn(done, refuse_impossible(where, piece.conditions, job.engine.deterministic))
        codes.append(code_folder(done.run, piece.conditions.code, installed=installed))
    return codes


def _warn(done: Replayed, warnings: list[str]) -> None:
    done.warnings += [warning for warning in warnings if warning not in done.warnings]


def _replay(done: Replayed, scratch: Scratch, piece: Piece, code: Path, recorded: list[Line], show: Show) -> bool:
    """Compute and compare one piece; whether the next is worth computing."""
    ranks = piece.conditions.topology["ranks"]
    show(f"computing steps {piece.first} to {piece.last} on {counted(ranks, 'rank')}")
    environment = environment_of(piece.conditions, code)
    made = compute(scratch, piece, environment, show)
    claim = [entry for entry in scratch.run.log.read() if entry.kind == "claim"][-1]
    _warn(done, _unlike(piece, claim))
    history = scratch.run.log.refresh()
    lines = {line["step"]: line for line in metric_lines(scratch.run.store, history)}
    ours = [lines[step] for step in range(piece.first, made + 1) if step in lines]
    theirs = [line for line in recorded if piece.first <= line["step"] <= made]
    done.parts = parting(theirs, ours)
    done.steps_compared += len({line["step"] for line in theirs} & {line["step"] for line in ours})
    if piece.commit is not None and made == piece.last:
        show(f"comparing the tensors of step {made}")
        done.checkpoints.append(_compare(done.run, piece.commit, scratch.run, history.commits[-1], environment))
    return done.equal and made == piece.last


def _unlike(piece: Piece, claim: Entry) -> list[str]:
    """What the ranks of the replay report otherwise than those of the run did."""
    conditions, here = piece.conditions, claim.fields
    topology = {name: value for name, value in conditions.topology.items() if name != "micro"}
    theirs = {name: value for name, value in here["topology"].items() if name != "micro"}
    return versions_differ({**topology, **conditions.machine}, {**theirs, **here["machine"]})


def _compare(
    one: RunRoot, recorded: Commit, other: RunRoot, made: Commit, environment: Mapping[str, str]
) -> ReplayCheckpointOutput:
    """What differs between two checkpoints, found by a process that may import torch.

    Raises:
        CheckpointError: one of them is damaged.
    """
    named = ["--one", one.url, recorded.folder, recorded.manifest, "--other", other.url, made.folder, made.manifest]
    command = [sys.executable, "-P", "-m", _COMPARE, *named]
    found = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=False)
    if found.returncode:
        said = (found.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise CheckpointError(Fault(f"{one.url}/{recorded.folder}", f"cannot be compared: {said}"))
    return cast(ReplayCheckpointOutput, {"step": made.step, **json.loads(found.stdout)})
