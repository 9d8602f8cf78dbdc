"""How a step is shared among ranks, and how many images each holds at once."""

from dataclasses import dataclass

from gmml_cluster.plan.memory import fitting_micro_batch, moments_of
from gmml_cluster.plan.sample_layout import SampleLayout, groups_of_rank, micro_batches
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.counts import Counts
from gmml_cluster.spec.methods.relations import counts_beside
from gmml_cluster.spec.rules import group_of, view_size


@dataclass(frozen=True)
class Share:
    """How a step is shared among some number of ranks."""

    ranks: int
    """How many."""
    groups: tuple[int, int]
    """Of the emptiest and of the fullest rank."""
    micro_batch: int
    """Images that a rank holds at once."""
    micro_batches: int
    """Of a step."""
    padding_share: float
    """Share of the computed groups that are copies."""


def share_of(job: JobSpec, layout: SampleLayout, ranks: int, device_bytes: int | None) -> Share:
    """A step at a number of ranks; of the layout, groups and lanes suffice.

    Args:
        device_bytes: memory that every rank may use, the same number on all; None on CPUs.

    Raises:
        SpecError: there are more ranks than lanes.
    """
    cut = micro_batches(layout, ranks, micro_batch(job, layout, ranks, device_bytes))
    groups = [groups_of_rank(layout, ranks, rank) for rank in range(ranks)]
    return Share(
        ranks=ranks,
        groups=(min(groups), max(groups)),
        micro_batch=cut.groups_per_micro * layout.group,
        micro_batches=cut.count,
        padding_share=cut.padding_share,
    )


def micro_batch(job: JobSpec, layout: SampleLayout, ranks: int, device_bytes: int | None) -> int:
    """Images that every rank holds at once: `batch.micro`, or for `auto` what fits the device.

    Args:
        job: what is trained.
        layout: the run's layout.
        ranks: number of ranks.
        device_bytes: memory that every rank may use, the same number on all; None on CPUs.

    Raises:
        SpecError: there are more ranks than lanes.
    """
    groups = max(groups_of_rank(layout, ranks, rank) for rank in range(ranks))
    return _held_at_once(job, groups * layout.group, ranks, device_bytes)


def micro_batch_before_indexing(job: JobSpec, ranks: int, device_bytes: int | None) -> int:
    """As `micro_batch`, where lanes are not known yet: the groups of a step are shared out evenly."""
    group = group_of(job)
    return _held_at_once(job, -(-job.batch.size // (group * ranks)) * group, ranks, device_bytes)


def _held_at_once(job: JobSpec, share: int, ranks: int, device_bytes: int | None) -> int:
    """Images of a micro-batch of a rank whose share of a step is known."""
    if job.batch.micro != "auto":
        return min(job.batch.micro, share)
    return fitting_micro_batch(
        counts_of(job),
        job.engine,
        ranks=ranks,
        group=group_of(job),
        share=share,
        device_bytes=device_bytes,
        moments=moments_of(job.optim),
    )


def counts_of(job: JobSpec) -> Counts:
    """What an image of the job costs."""
    size, model = view_size(job), job.model
    counts = job.method.counts(model, size)
    if job.auxiliary is None:
        return counts
    return counts_beside(counts, job.auxiliary, model.width, (size // model.patch_size) ** 2)
