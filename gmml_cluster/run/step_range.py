"""Which steps of a run to compute again, from which checkpoint, and on what: a function of the log."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.history import Commit, History


@dataclass(frozen=True)
class Conditions:
    """What the figures of a step depend on beside the spec and the state before it (docs/exactness.md, grade B).

    Attributes:
        topology: ranks, ZeRO stage, precision, micro-batch, threads; `micro` is the number of images.
        code: digest of the code.
        changed: fields outside the identity that held: name -> [value in spec.yaml, value then].
        machine: device and versions; no part of the comparison of two, as it names the host too.
        attempt: the first of the attempts that computed under these.
    """

    topology: Mapping[str, Any]
    code: str
    changed: Mapping[str, Any]
    machine: Mapping[str, Any]
    attempt: int

    def same(self, other: "Conditions") -> bool:
        """Whether ranks can compute on from one to the other without being started anew."""
        return (self.topology, self.code, self.changed) == (other.topology, other.code, other.changed)


@dataclass(frozen=True)
class Stretch:
    """Consecutive steps under one set of conditions; `last` is None for those of the latest attempt."""

    first: int
    last: int | None
    conditions: Conditions


@dataclass(frozen=True)
class Piece:
    """What one start of the ranks computes again.

    Attributes:
        commit: the run's checkpoint of the last step, if it has one: its tensors are compared.
    """

    first: int
    last: int
    conditions: Conditions
    commit: Commit | None


@dataclass(frozen=True)
class StepRange:
    """Steps to compute again.

    Attributes:
        start: the checkpoint that they begin from; None for the run's own beginning.
    """

    start: Commit | None
    first: int
    last: int


def stretches(entries: Iterable[Entry]) -> list[Stretch]:
    """The steps that count, in order, each under the conditions of the attempt that made it last."""
    submits: dict[str, Mapping[str, Any]] = {}
    claims: dict[int, Mapping[str, Any]] = {}
    begins: list[tuple[int, Conditions]] = []
    for entry in entries:
        if entry.kind == "submit":
            submits[entry.token] = entry.fields
        elif entry.kind == "claim" and entry.attempt is not None:
            claims[entry.attempt] = entry.fields
        elif entry.kind == "begin" and entry.attempt in claims:
            claim, step = claims[entry.attempt], entry.fields["step"]
            kept = [begin for begin in begins if begin[0] < step]
            begins = [*kept, (step, _conditions(entry, claim, submits.get(claim["submit"], {})))]
    found: list[Stretch] = []
    for step, conditions in begins:
        if found and found[-1].conditions.same(conditions):
            continue
        if found:
            found[-1] = Stretch(found[-1].first, step - 1, found[-1].conditions)
        found.append(Stretch(step, None, conditions))
    return found


def _conditions(begin: Entry, claim: Mapping[str, Any], submit: Mapping[str, Any]) -> Conditions:
    topology = dict(claim["topology"] if "topology" in claim else claim["layout"])
    topology["micro"] = begin.fields.get("micro", topology.get("micro"))
    assert begin.attempt is not None
    machine, changed = claim.get("machine", {}), submit.get("changed", {})
    return Conditions(topology, submit.get("code", ""), changed, machine, begin.attempt)


def commits_of(history: History) -> list[Commit]:
    """The checkpoints that exist and that the steps which count passed through, by step."""
    cuts = {commit: history.cut(commit.attempt) for commit in history.commits}
    kept = (commit for commit, cut in cuts.items() if cut is None or commit.step < cut)
    return sorted(kept, key=lambda commit: commit.step)


def choose(history: History, where: str, *, first: int | None, last: int | None, known: int | None) -> StepRange:
    """The steps that a user asked for, begun at the latest checkpoint before it.

    Args:
        where: the run, for faults.
        first: step that is to be in it; by default the first behind the checkpoint before the last one.
        last: its last step; by default that of the next checkpoint, or else the last that is known.
        known: the last step that has a metric line; None where there is none.

    Raises:
        SpecError: the run has no such steps.
    """
    if known is None:
        raise SpecError(Fault(where, "has made no step that its metrics know", "replay it when it has trained"))
    commits = commits_of(history)
    if first is None:
        ends = [commit for commit in commits if last is None or commit.step < last]
        before = ends[:-1] if last is None else ends
        start = before[-1] if before else None
        first = 0 if start is None else start.step + 1
    start = max((c for c in commits if c.step < first), key=lambda commit: commit.step, default=None)
    if last is None:
        last = next((commit.step for commit in commits if commit.step >= first), known)
    if not 0 <= first <= last <= known:
        problem = f"steps {first} to {last} are asked for; it has made steps 0 to {known}"
        raise SpecError(Fault(where, problem, "name steps that gmml metrics lists"))
    return StepRange(start, 0 if start is None else start.step + 1, last)


def pieces(steps: StepRange, made: Sequence[Stretch], commits: Sequence[Commit]) -> list[Piece]:
    """The steps cut at each checkpoint, where tensors are compared, and at each change of conditions."""
    by_step = {commit.step: commit for commit in commits}
    ends = {steps.last, *by_step, *(stretch.last for stretch in made if stretch.last is not None)}
    found: list[Piece] = []
    first = steps.first
    for last in sorted(end for end in ends if steps.first <= end <= steps.last):
        under = next(stretch for stretch in reversed(made) if stretch.first <= first)
        found.append(Piece(first, last, under.conditions, by_step.get(last)))
        first = last + 1
    return found
