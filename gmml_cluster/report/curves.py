"""Curves of a run from its metric lines: what is drawn, over three axes, and what is said of them in words."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gmml_cluster.report.downsample import Band, Floats, bucket_starts, reduce
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.uploads import Line

METRICS = {
    "loss": ("Loss", "mean over the groups of a step, before its update"),
    "grad_norm": ("Gradient norm", "over all parameters, before clipping"),
    "lr": ("Learning rate", "of the step"),
    "wd": ("Weight decay", "of the step"),
    "samples_per_s": ("Throughput", "images a second over all ranks"),
}
"""Field of a metric line -> title, and what it is."""
_HOUR_S = 3600.0


@dataclass(frozen=True)
class Extremes:
    """First, last, least and greatest value of a series, each with its step; over all values, not those drawn."""

    first: tuple[float, int]
    last: tuple[float, int]
    least: tuple[float, int]
    greatest: tuple[float, int]


@dataclass(frozen=True)
class Curves:
    """The curves of one run over K buckets of steps.

    Attributes:
        steps: lines that they were made from.
        first, last: of each bucket its first and last step.
        samples: images drawn up to the last step of each bucket.
        hours: since the run's first submit, when that step was made.
        bands: metric -> its band; metrics without any value are left out.
        extremes: of the same metrics.
        not_finite: steps whose loss or gradient was not finite.
        skipped: steps whose update was left out.
        sums: of `damaged`, `unchecked` and `retries` over all steps.
    """

    steps: int
    first: Floats
    last: Floats
    samples: Floats
    hours: Floats
    bands: Mapping[str, Band]
    extremes: Mapping[str, Extremes]
    not_finite: Sequence[int]
    skipped: Sequence[int]
    sums: Mapping[str, int]


def curves_of(lines: Sequence[Line], entries: Iterable[Entry], most: int) -> Curves:
    """The curves of a run.

    Args:
        lines: one a step, by step, as `run.uploads.metric_lines` reads them.
        entries: of its log, for the times.
        most: buckets at most.
    """
    steps_N = _column(lines, "step")
    starts_K = bucket_starts(len(lines), most)
    ends_K = np.append(starts_K[1:], len(lines)) - 1 if len(starts_K) else starts_K
    series = {name: values for name in METRICS if np.isfinite(values := _column(lines, name)).any()}
    return Curves(
        steps=len(lines),
        first=steps_N[starts_K],
        last=steps_N[ends_K],
        samples=_column(lines, "samples")[ends_K],
        hours=hours_of(lines, entries)[ends_K],
        bands={name: reduce(values_N, starts_K) for name, values_N in series.items()},
        extremes={name: _extremes(values_N, steps_N) for name, values_N in series.items()},
        not_finite=[line["step"] for line in lines if line["loss"] is None or line.get("grad_norm", 0) is None],
        skipped=[line["step"] for line in lines if line.get("skipped")],
        sums={name: sum(line.get(name) or 0 for line in lines) for name in ("damaged", "unchecked", "retries")},
    )


def hours_of(lines: Sequence[Line], entries: Iterable[Entry]) -> Floats:
    """When each step was made, in hours since the first submit.

    A line has only how long its step took. The log has the times of `begin`, `commit` and `end`; between two of these
    the steps lie by their durations, so that evaluations and stalls do not add up to an error.
    """
    began, anchors = _anchors(entries)
    found = np.zeros(len(lines))
    steps, took_N = _column(lines, "step"), np.nan_to_num(_column(lines, "step_s"))
    attempts = _column(lines, "attempt")
    for attempt in np.unique(attempts[np.isfinite(attempts)]):
        own = np.flatnonzero(attempts == attempt)
        known = anchors.get(int(attempt))
        if known is None:
            continue
        spent = np.cumsum(took_N[own])
        by_step = np.interp([step for step, _ in known], steps[own], spent, left=0.0)
        times = np.array([when for _, when in known])
        found[own] = np.interp(spent, by_step, times) + np.maximum(0.0, spent - by_step[-1])
    return (found - began) / _HOUR_S if began is not None else found


def _anchors(entries: Iterable[Entry]) -> tuple[float | None, dict[int, list[tuple[float, float]]]]:
    """Time of the first submit; of each attempt rising pairs of a step and when it was over."""
    began: float | None = None
    found: dict[int, list[tuple[float, float]]] = {}
    for entry in entries:
        if entry.kind == "submit" and began is None:
            began = entry.time
        elif entry.kind == "begin" and entry.attempt is not None:
            found[entry.attempt] = [(entry.fields["step"] - 1, entry.time)]
        elif entry.kind == "commit" and entry.attempt in found:
            _later(found[entry.attempt], entry.fields["step"], entry.time - float(entry.fields.get("seconds") or 0.0))
    return began, found


def _later(known: list[tuple[float, float]], step: int, when: float) -> None:
    """One more pair, unless clocks were set back; interpolation needs both to rise."""
    if step > known[-1][0] and when > known[-1][1]:
        known.append((step, when))


def _column(lines: Sequence[Mapping[str, Any]], name: str) -> Floats:
    """The values of a field; NaN where it is null or missing."""
    return np.array([line.get(name) for line in lines], np.float64)


def _extremes(values_N: Floats, steps_N: Floats) -> Extremes:
    known = np.flatnonzero(np.isfinite(values_N))
    chosen = known[0], known[-1], known[values_N[known].argmin()], known[values_N[known].argmax()]
    return Extremes(*((float(values_N[index]), int(steps_N[index])) for index in chosen))
