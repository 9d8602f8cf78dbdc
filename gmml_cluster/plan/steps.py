"""How many steps a run takes.

Dims: B batch, N_1 samples of the first corpus, L lanes, L_1 lanes of the first corpus.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from gmml_cluster.plan.sample_layout import CorpusShape, SampleLayout, make_layout
from gmml_cluster.spec.job import JobSpec, RunSpec
from gmml_cluster.spec.rules import group_of
from gmml_cluster.spec.scalars import Length


def layout_of(job: JobSpec, shapes: Sequence[CorpusShape]) -> SampleLayout:
    """The layout of a job whose corpora are known.

    Raises:
        SpecError: it does not fit them.
    """
    data = job.data
    settings: dict[str, Any] = {"lanes": data.lanes, "window": data.window, "spans": data.spans}
    return make_layout(seed=job.seed, batch=job.batch.size, group=group_of(job), corpora=shapes, **settings)


def epoch_steps(layout: SampleLayout) -> float:
    """Steps in which the first corpus is drawn once, N_1 L / (L_1 B); seldom whole."""
    return float(_epoch(layout))


def total_steps(job: JobSpec, layout: SampleLayout) -> int:
    """Steps of a run whose corpora are known: T = ceil(epochs N_1 L / (L_1 B)), or as the spec says without them."""
    known = steps_without_corpora(job.run, job.batch.size)
    return math.ceil(Fraction(str(job.run.epochs)) * _epoch(layout)) if known is None else known


def steps_without_corpora(run: RunSpec, batch: int) -> int | None:
    """Steps of a run that counts them, or samples (rounded up to whole steps); None where it counts epochs."""
    if run.steps is not None:
        return run.steps
    return None if run.samples is None else -(-run.samples // batch)


def begins_at(length: Length, layout: SampleLayout, times: int = 1) -> int:
    """The first step that lies so many times a length, or more, behind the run's start."""
    if length.steps is not None:
        return times * length.steps
    exact = (
        Fraction(str(length.epochs)) * _epoch(layout)
        if length.samples is None
        else Fraction(length.samples, layout.batch)
    )
    return math.ceil(times * exact)


def _epoch(layout: SampleLayout) -> Fraction:
    return Fraction(layout.corpora[0].samples * layout.lanes, layout.lane_counts[0] * layout.batch)
