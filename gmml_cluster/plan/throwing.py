"""What a run costs whose steps change once AMT's masks begin, and what the passes cost that make its maps."""

from dataclasses import dataclass

from gmml_cluster.plan.refreshes import Refreshes, refreshes
from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.amt import AmtOptions
from gmml_cluster.spec.methods.encoder_kind import kind_of
from gmml_cluster.spec.rules import view_size


@dataclass(frozen=True)
class MapsPlan:
    """AMT's passes over the corpora."""

    passes: int
    """Their number."""
    first: int | None
    """Step before which the first is made; None where there is none."""
    start: int | None
    """First step whose masks follow attention; None where no step's do."""
    share: float
    """Of the passes in the run's arithmetic, 0 to 1."""


def later_step_flops(job: JobSpec) -> int | None:
    """FLOP of a step, forward and backward, from AMT's start on; None without AMT."""
    later = counts_of(job).later
    return None if later is None else later.step_flops * job.batch.size


def total_flops(job: JobSpec, layout: SampleLayout | None, steps: int) -> int:
    """FLOP of a run's steps and passes; where the corpora are not known, as if AMT never began.

    Args:
        job: what is trained.
        layout: of its corpora.
        steps: of the run.
    """
    first, later = counts_of(job).step_flops * job.batch.size, later_step_flops(job)
    found = _refreshes(job, layout, steps)
    if later is None or found is None or layout is None:
        return first * steps
    changed = max(0, steps - max(found.start, found.steps[0])) if found.steps else 0
    return first * (steps - changed) + later * changed + _pass_flops(job, layout) * len(found.steps)


def maps_plan(job: JobSpec, layout: SampleLayout | None, steps: int) -> MapsPlan | None:
    """When a run makes maps and reads them; None without AMT, or where the corpora are not known."""
    found = _refreshes(job, layout, steps)
    if found is None or layout is None:
        return None
    first = found.steps[0] if found.steps else None
    begins = steps if first is None else max(found.start, first)
    share = _pass_flops(job, layout) * len(found.steps) / total_flops(job, layout, steps)
    return MapsPlan(len(found.steps), first, begins if begins < steps else None, share)


def _refreshes(job: JobSpec, layout: SampleLayout | None, steps: int) -> Refreshes | None:
    amt: AmtOptions | None = getattr(job.method, "amt", None)
    return None if amt is None or layout is None else refreshes(amt.start, amt.interval, layout, steps)


def _pass_flops(job: JobSpec, layout: SampleLayout) -> int:
    """FLOP of a pass: each image's encoder over all tokens, forward."""
    patches, kind = (view_size(job) // job.model.patch_size) ** 2, kind_of(job.method)
    assert kind is not None
    one = kind.stack(job.model, patches).flops + 2 * patches * 3 * job.model.patch_size**2 * job.model.width
    return one * sum(corpus.samples for corpus in layout.corpora)
