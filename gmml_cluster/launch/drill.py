"""A user rehearses on their own cluster: short runs of a job, one undisturbed and one for each disturbance.

The ranks do it to themselves (`run/drills.py`), so a drill is a submission like any other.
"""

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from gmml_cluster.errors import Fault, LaunchError
from gmml_cluster.launch.prepare import Prepared, prepare
from gmml_cluster.launch.runs.follow import ended_without_finishing, is_at_work
from gmml_cluster.launch.submit import submit
from gmml_cluster.outputs.runs import DrillOutput
from gmml_cluster.run.drills import VARIABLE, Drill, Kind
from gmml_cluster.run.ledger import status
from gmml_cluster.run.results.comparison import parting
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.uploads import Line, metric_lines

STEPS, SAVE_EVERY, AT = 60, 20, 29
"""Steps of each run, steps between its checkpoints, and the step behind which it is disturbed."""
_POLL_S = 2.0
_SHORT = (
    "run.epochs=null",
    "run.samples=null",
    f"run.steps={STEPS}",
    f"checkpoint.every={SAVE_EVERY} steps",
    "optim.schedule.samples=null",
    "optim.schedule.warmup=5 steps",
    "evaluate=null",
)


@dataclass(frozen=True)
class Drilled:
    """One run and what it lost.

    Attributes:
        kind: None for the undisturbed run.
        problem: why it did not finish; empty where it did.
        causes: why its attempts ended, in order.
        steps_lost: steps that were made twice.
        seconds: from its first `begin` to its end.
        lost_s: how much longer than the undisturbed run; None where either did not finish.
        equal: whether each step's figures are those of the undisturbed run, bit for bit; None for that run itself.
    """

    kind: Kind | None
    run: str
    problem: str
    causes: Sequence[str]
    steps_lost: int
    seconds: float | None
    lost_s: float | None = None
    equal: bool | None = None


def drill(
    job: str, *, cluster: str, overrides: Sequence[str], kinds: Sequence[Kind], show: Callable[[str], None]
) -> Iterator[Drilled]:
    """Run the job undisturbed, then once with each of the disturbances, one after the other.

    Args:
        show: called with a line before each run.

    Raises:
        SpecError, PreflightError, LaunchError: the first run cannot be submitted.
        LaunchError: it did not finish, so there is nothing to compare with.
    """
    tag = f"drill-{secrets.token_hex(3)}"
    calm, theirs = _one(job, cluster, overrides, tag, None, show)
    if calm.problem:
        raise LaunchError(Fault(calm.run, f"the undisturbed run did not finish: {calm.problem}", "fix this first"))
    yield calm
    for kind in kinds:
        found, lines = _one(job, cluster, overrides, tag, kind, show)
        if found.seconds is not None and calm.seconds is not None:
            found = replace(found, lost_s=max(0.0, found.seconds - calm.seconds))
        yield replace(found, equal=len(lines) == len(theirs) and parting(lines, theirs) is None)


def _one(
    job: str, cluster: str, overrides: Sequence[str], tag: str, kind: Kind | None, show: Callable[[str], None]
) -> tuple[Drilled, list[Line]]:
    """One run to its end, and its metric lines."""
    named = prepare(job, cluster=cluster, overrides=[*overrides, *_SHORT])
    name = f"{named.job.name[:40]}-{tag}-{kind or 'calm'}"
    prepared = prepare(job, cluster=cluster, overrides=[*overrides, *_SHORT, f"name={name}"])
    show(f"{name} on {cluster}")
    run = submit(prepared if kind is None else _disturbed(prepared, kind)).run
    while is_at_work(run):
        time.sleep(_POLL_S)
    return _read(run, kind), metric_lines(run.store, run.log.refresh())


def _disturbed(prepared: Prepared, kind: Kind) -> Prepared:
    """The same, with ranks that find the drill in their environment."""
    profile = prepared.profile
    asked = {**profile.environment, VARIABLE: str(Drill(kind, AT))}
    submission = replace(prepared.submission, profile=profile.model_copy(update={"environment": asked}))
    return replace(prepared, submission=submission)


def _read(run: RunRoot, kind: Kind | None) -> Drilled:
    history = run.log.refresh()
    goodput = status(history, {})["goodput"]
    begins = [entry.time for entry in run.log.read() if entry.kind == "begin"]
    ends = [attempt.end_time for attempt in history.attempts if attempt.end_time is not None]
    return Drilled(
        kind,
        run.name,
        problem=ended_without_finishing(run),
        causes=[attempt.cause or "lost" for attempt in history.attempts],
        steps_lost=goodput["steps_made"] - goodput["steps_kept"],
        seconds=max(ends) - min(begins) if begins and ends else None,
    )


def document(found: Drilled) -> DrillOutput:
    """As `gmml drill --json` prints it, a line each (docs/outputs.md)."""
    return {
        "version": 1,
        "kind": found.kind,
        "run": found.run,
        "problem": found.problem,
        "causes": list(found.causes),
        "steps_lost": found.steps_lost,
        "seconds": found.seconds,
        "lost_s": found.lost_s,
        "equal": found.equal,
    }
