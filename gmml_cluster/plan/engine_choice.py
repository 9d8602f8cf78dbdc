"""`engine.zero: auto`: the engine that the memory of the GPUs allows, plain DDP first."""

from gmml_cluster.plan.evaluation import scoring_bytes
from gmml_cluster.plan.memory import Memory, memory_of_rank, moments_of
from gmml_cluster.plan.shares import counts_of, micro_batch_before_indexing
from gmml_cluster.spec.engine import Zero
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.rules import group_of

_ORDER: tuple[Zero, ...] = ("ddp", 1, 2, 3)
"""By what a step costs beside its arithmetic. Stage 0 is left out: it shares out as little as DDP, and needs more."""


def with_engine_chosen(job: JobSpec, ranks: int, device_bytes: int | None) -> JobSpec:
    """The job with `engine.zero` as a number of ranks computes it; the same job where it is not `auto`.

    `auto` becomes the first of `ddp`, 1, 2, 3 of which the estimate for the smallest micro-batch, with the margin, is
    within the memory of the device; where none is, the one that needs least. `ddp` where the device's memory is not
    known, and on CPUs.

    Args:
        job: what is trained.
        ranks: number of ranks.
        device_bytes: memory that every rank may use, the same number on all; None on CPUs.
    """
    if job.engine.zero != "auto":
        return job
    zero: Zero = "ddp"
    if device_bytes is not None:
        needed = needed_bytes(job, ranks)
        fitting = (each for each, count in needed.items() if count <= device_bytes)
        zero = next(fitting, min(needed, key=needed.__getitem__))
    return with_zero(job, zero)


def needed_bytes(job: JobSpec, ranks: int) -> dict[Zero, int]:
    """What the device of a rank must have for the smallest micro-batch, by engine, in the order of `auto`.

    The smallest micro-batch is one group, or `batch.micro` where it is a number.
    """
    group, micro = group_of(job), job.batch.micro
    images = group if micro == "auto" else micro_batch_before_indexing(job, ranks, None)
    # the spec refuses `compile` with stage 3
    order = [zero for zero in _ORDER if not (zero == 3 and job.engine.compile)]
    return {zero: memory_of_job(with_zero(job, zero), ranks, images).needed_bytes for zero in order}


def engine_name(zero: Zero) -> str:
    """An engine as people call it."""
    return "plain DDP" if zero == "ddp" else f"ZeRO {zero}"


def memory_of_job(job: JobSpec, ranks: int, images: int) -> Memory:
    """Memory of a rank that holds micro-batches of `images`, and scores between two steps where the job asks for it."""
    return memory_of_rank(
        counts_of(job),
        job.engine,
        ranks=ranks,
        images=images,
        moments=moments_of(job.optim),
        scoring_bytes=scoring_bytes(job),
    )


def with_zero(job: JobSpec, zero: Zero) -> JobSpec:
    """The job with this engine."""
    return job.model_copy(update={"engine": job.engine.model_copy(update={"zero": zero})})
