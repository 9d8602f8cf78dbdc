"""What a run costs whose steps grow cheaper once AMT throws tokens away, with the passes that make its maps."""

from gmml_cluster.plan.refreshes import refreshes
from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.amt import AmtOptions
from gmml_cluster.spec.methods.encoder_kind import kind_of
from gmml_cluster.spec.rules import view_size


def later_step_flops(job: JobSpec) -> int | None:
    """FLOP of a step, forward and backward, once tokens are thrown away; None where none ever are."""
    later = counts_of(job).later
    return None if later is None else later.step_flops * job.batch.size


def total_flops(job: JobSpec, layout: SampleLayout | None, steps: int) -> int:
    """FLOP of a run's steps and passes; where the corpora are not known, as if none were thrown away.

    Args:
        job: what is trained.
        layout: of its corpora.
        steps: of the run.
    """
    first, later = counts_of(job).step_flops * job.batch.size, later_step_flops(job)
    amt: AmtOptions | None = getattr(job.method, "amt", None)
    if later is None or amt is None or layout is None:
        return first * steps
    found = refreshes(amt.start, amt.interval, layout, steps)
    cheap = max(0, steps - max(found.start, found.steps[0])) if found.steps else 0
    images = sum(corpus.samples for corpus in layout.corpora)
    return first * (steps - cheap) + later * cheap + len(found.steps) * images * _map_flops(job)


def _map_flops(job: JobSpec) -> int:
    """FLOP of the map of an image: its encoder over all tokens, forward."""
    patches, kind = (view_size(job) // job.model.patch_size) ** 2, kind_of(job.method)
    assert kind is not None
    return kind.stack(job.model, patches).flops + 2 * patches * 3 * job.model.patch_size**2 * job.model.width
