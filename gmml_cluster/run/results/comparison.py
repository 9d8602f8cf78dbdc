"""Where two runs part: what of their specs, code and corpora differs, and the first step whose metric lines do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gmml_cluster.outputs.runs import DiffAttemptOutput, DiffOutput, DiffPartsOutput
from gmml_cluster.run.history import History
from gmml_cluster.run.ledger import code_of_steps
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.uploads import Line, metric_lines

UNPROMISED = (
    "attempt",
    "time",
    "samples_per_s",
    "data_wait_s",
    "step_s",
    "checkpoint_stall_s",
    "unchecked",
    "reads_in_flight",
    "read_ahead_bytes",
    "retries",
    "evaluation_s",
    "slow_ranks",
    "cache_hits",
    "cache_faults",
)
"""Fields of a metric line that say how fast and by whom it was made; all others are promised (docs/exactness.md)."""


@dataclass(frozen=True)
class Parting:
    """The first step at which two series of metric lines differ.

    Attributes:
        fields: name -> the two values.
        attempts: which made the step, in either.
    """

    step: int
    fields: Mapping[str, tuple[Any, Any]]
    attempts: tuple[int | None, int | None]


def parting(one: Sequence[Line], other: Sequence[Line]) -> Parting | None:
    """The first step that both have and whose promised fields differ; None where there is none.

    Fields that only one of the two lines has are not compared: methods and versions have figures of their own.
    """
    theirs = {line["step"]: line for line in other}
    for line in one:
        found = theirs.get(line["step"])
        if found is None:
            continue
        fields = {
            name: (line[name], found[name])
            for name in line
            if name in found and name not in UNPROMISED and line[name] != found[name]
        }
        if fields:
            return Parting(line["step"], fields, (line.get("attempt"), found.get("attempt")))
    return None


def compare_runs(one: RunRoot, other: RunRoot) -> DiffOutput:
    """The document that `gmml diff RUN RUN --json` prints (docs/outputs.md).

    Raises:
        StorageError: a run cannot be read.
        RunDamaged, SpecError: the spec of one is not what was submitted, or of an unknown version.
    """
    runs = (one, other)
    histories = [run.log.refresh() for run in runs]
    lines = [metric_lines(run.store, history) for run, history in zip(runs, histories, strict=True)]
    steps = [{line["step"] for line in each} for each in lines]
    found = parting(*lines)
    return {
        "version": 1,
        "runs": [run.url for run in runs],
        "spec": spec_differences(*map(spec_of, runs, histories)),
        "corpora": [(history.pin or {}).get("corpora") for history in histories],
        "code": [code_of_steps(history) for history in histories],
        "attempts": [_attempts(history) for history in histories],
        "steps_compared": len(steps[0] & steps[1]),
        "steps_of_one": [len(steps[0] - steps[1]), len(steps[1] - steps[0])],
        "fields_of_one": _fields_of_one(*lines),
        "parts": None if found is None else _parts(found),
    }


def _parts(found: Parting) -> DiffPartsOutput:
    fields = {name: list(values) for name, values in found.fields.items()}
    return {"step": found.step, "attempts": list(found.attempts), "fields": fields}


def spec_of(run: RunRoot, history: History) -> dict[str, Any]:
    """Every field of a run's spec, with the changes of its latest submit."""
    from gmml_cluster.spec.loading.validate import dump  # `gmml status` imports this package without pydantic

    return dump(run.job(history.submit.changed if history.submit else {}))


def spec_differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Dotted fields that differ, the name apart: field -> both values."""
    from gmml_cluster.spec.identity import differing

    return {field: values for field, values in differing(one, other).items() if field != "name"}


def _attempts(history: History) -> list[DiffAttemptOutput]:
    return [
        {
            "attempt": attempt.number,
            "first_step": attempt.first_step,
            "last_step": attempt.last_step,
            "cause": attempt.cause,
            "topology": dict(attempt.topology),
        }
        for attempt in history.attempts
    ]


def _fields_of_one(one: Sequence[Line], other: Sequence[Line]) -> list[list[str]]:
    """Names of the figures that the lines of only one run have."""
    names = [set().union(*lines) if lines else set() for lines in (one, other)]
    return [sorted(names[0] - names[1]), sorted(names[1] - names[0])] if all(names) else [[], []]
