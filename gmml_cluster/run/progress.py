"""How far a run that trains has come: what `gmml status` shows of it between two checkpoints."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from gmml_cluster.outputs.status import MapPassOutput
from gmml_cluster.run.folders import maps_folder
from gmml_cluster.run.history import History
from gmml_cluster.run.uploads import Line, last_metric_lines
from gmml_cluster.store.protocol import NotFound, Store


@dataclass(frozen=True)
class Progress:
    """Figures of an attempt by the metric lines that it uploaded last: up to 30 s old, one interval of uploads.

    Attributes:
        attempt: whose figures these are.
        step: the last that was uploaded, from 0.
        steps: updates of the whole run; None before the corpora are pinned.
        loss: of that step; None where it was not finite.
        samples_per_s: images a second over all ranks, the mean of those lines.
        data_wait_share: share of the steps' time in which the slowest rank waited for images, from 0 to 1.
        slow_ranks: those that keep the others waiting, for a hundred steps by now.
        left_s: seconds to the last step at that rate, saves and restarts not counted; None where `steps` is.
    """

    attempt: int
    step: int
    steps: int | None
    loss: float | None
    samples_per_s: float
    data_wait_share: float
    left_s: float | None
    slow_ranks: tuple[int, ...] = ()


def read_progress(store: Store, history: History) -> Progress | None:
    """The progress of the latest attempt, by the last part of its metrics; None where it has uploaded nothing yet.

    Worth its requests, some twenty after a day, only for a run that is `running`: of any other the log has the last
    step.

    Args:
        store: the run root.
        history: the run's.

    Raises:
        StorageError: the store does not answer, or the part is damaged.
    """
    if not history.attempts:
        return None
    attempt = history.attempts[-1].number
    return progress(attempt, last_metric_lines(store, attempt), total_steps(history))


def read_map_pass(store: Store, history: History) -> MapPassOutput | None:
    """How far a pass that makes maps is: `step` that waits for them, `made` and `blocks`; None where none is under way.

    Args:
        store: the run root.
        history: the run's, with a live attempt.

    Raises:
        StorageError: the store does not answer.
    """
    last = history.commits[-1] if history.commits else None
    if last is None or any((maps.of_step, maps.of_attempt) == (last.step, last.attempt) for maps in history.maps):
        return None
    try:
        found = json.loads(store.get(map_pass_name(maps_folder(last.step, last.attempt))))
    except NotFound:
        return None
    return {"step": last.step + 1, "made": found["made"], "blocks": found["blocks"]}


def map_pass_name(folder: str) -> str:
    """Where a pass says how far it is, within the run root."""
    return f"{folder}/progress.json"


def progress(attempt: int, lines: Sequence[Line], steps: int | None) -> Progress | None:
    """What the lines of one part say; None where there are none."""
    if not lines:
        return None
    last, spent_s = lines[-1], sum(line["step_s"] for line in lines)
    drawn, waited_s = sum(line["batch"] for line in lines), sum(line["data_wait_s"] for line in lines)
    return Progress(
        attempt=attempt,
        step=last["step"],
        steps=steps,
        loss=last["loss"],
        samples_per_s=drawn / spent_s if spent_s else 0.0,
        data_wait_share=waited_s / spent_s if spent_s else 0.0,
        left_s=None if steps is None else max(0, steps - 1 - last["step"]) * spent_s / len(lines),
        slow_ranks=tuple(last.get("slow_ranks", ())),  # lines of earlier versions lack it
    )


def total_steps(history: History) -> int | None:
    """Updates of the whole run; of one that a later submit made longer within a step, as the length is in its unit."""
    if history.pin is None:
        return None
    changed: Mapping[str, Any] = history.submit.changed if history.submit else {}
    steps = Fraction(history.pin["steps"])
    for field, (old, new) in changed.items():
        if field.startswith("run.") and old and new:
            steps *= Fraction(str(new)) / Fraction(str(old))
    return math.ceil(steps)
