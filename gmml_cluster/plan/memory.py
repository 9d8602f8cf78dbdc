"""Estimated memory of a rank, and the largest micro-batch that fits a device.

The estimate is what ZeRO leaves on a rank and what a micro-batch keeps for its backward pass; the table is in
docs/job.md. Fragmentation and workspaces of kernels are not counted but by `MARGIN`.
"""

from dataclasses import dataclass, field, fields
from typing import Literal

from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.job import Optim
from gmml_cluster.spec.methods.counts import Counts

MARGIN = 1.2
"""Memory that a rank needs over the estimate: fragmentation and workspaces take 15 to 25 per cent."""
_READ_AHEAD_SHARE = 16
_LEAST_READ_AHEAD_BYTES, _MOST_READ_AHEAD_BYTES = 2**26, 2**30
_FLAT_VALUES = 5 * 10**8
"""Values that DeepSpeed flattens at once for the all-reduce of stage 0."""


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank."""

    parameters_bytes: int
    """fp32 weights, and their copies in bf16 under autocast."""
    gradients_bytes: int
    """fp32 gradients."""
    optimizer_bytes: int
    """Adam's two moments, or the momentum of LARS."""
    buffers_bytes: int
    """DeepSpeed's own. Stage 0: the flat copy of the gradients that is reduced. Stages 1 and 2: a copy of the weights
    that the rank updates. From stage 1 on: the buffer that gradients are copied to before their reduction (on GPUs)."""
    activations_bytes: int
    """A micro-batch: inputs, and what the backward pass needs."""
    evaluation_bytes: int = 0
    """What scores between two steps (`evaluate`) take beyond the activations, whose room is free then."""

    total_bytes: int = field(default=0, init=False)  # pydantic passes over one without a default
    """Sum of all parts, without the margin."""

    def __post_init__(self) -> None:
        parts = (getattr(self, each.name) for each in fields(self) if each.init)
        object.__setattr__(self, "total_bytes", sum(parts))

    @property
    def needed_bytes(self) -> int:
        """What the device must have: the sum with the margin."""
        return int(MARGIN * self.total_bytes)


def checkpoint_bytes(counts: Counts, moments: int) -> int:
    """Bytes of a checkpoint's tensors: fp32 weights, the optimizer's moments of each, and what is frozen."""
    return 4 * ((1 + moments) * counts.trained + counts.frozen)


def memory_of_rank(
    counts: Counts, engine: EngineSpec, *, ranks: int, images: int, moments: int = 2, scoring_bytes: int = 0
) -> Memory:
    """Memory of a rank that holds micro-batches of `images`.

    With P trained parameters and n ranks: 4P weights, 4P gradients, 4P a moment; moments are partitioned over the ranks
    from stage 1 on, gradients from stage 2, weights at stage 3. DDP partitions nothing; its buckets are the gradients
    themselves. DeepSpeed adds 4P at stage 0, 4P/n at stages 1 and 2, and 2P from stage 1 on.

    Args:
        counts: what an image costs.
        engine: how the step is computed, its `zero` chosen.
        ranks: number of ranks.
        images: of a micro-batch.
        moments: values that the optimizer keeps for each parameter (`moments_of`).
        scoring_bytes: what scores between two steps need (`plan.evaluation.scoring_bytes`).
    """
    zero = engine.chosen_zero
    stage = 0 if zero == "ddp" else zero
    trained, precision = counts.trained, engine.precision
    share = [-(-trained // ranks) if stage >= least else trained for least in (3, 2, 1)]
    activations = counts.activation_bytes(precision, checkpointing=engine.activation_checkpointing)
    flat = 4 * min(trained, _FLAT_VALUES) if zero == 0 else 0
    return Memory(
        parameters_bytes=4 * share[0] + 4 * counts.frozen + counts.cast_bytes(precision),
        gradients_bytes=4 * share[1],
        optimizer_bytes=4 * moments * share[2],
        buffers_bytes=flat + (4 * share[2] if stage in (1, 2) else 0) + (4 * bucket_values(trained) if stage else 0),
        activations_bytes=images * activations,
        evaluation_bytes=max(0, scoring_bytes - images * activations),
    )


def moments_of(optim: Optim) -> int:
    """Values that the optimizer keeps for each parameter: AdamW's two moments, one of LARS."""
    return 1 if optim.name == "lars" else 2


def fitting_micro_batch(
    counts: Counts,
    engine: EngineSpec,
    *,
    ranks: int,
    group: int,
    share: int,
    device_bytes: int | None,
    moments: int = 2,
) -> int:
    """Images of a micro-batch where `batch.micro` is `auto`.

    The fewest micro-batches that fit the device with the margin, as even as whole groups allow; one group if even that
    does not fit. The whole share where the device's memory is not known, and on CPUs.

    Args:
        counts: what an image costs.
        engine: how the step is computed, its `zero` chosen.
        ranks: number of ranks.
        group: images of a group.
        share: images of the fullest rank's share of a step, whole groups.
        device_bytes: memory that a rank may use.
        moments: values that the optimizer keeps for each parameter.
    """
    if device_bytes is None:
        return share
    fixed, each = (memory_of_rank(counts, engine, ranks=ranks, images=images, moments=moments) for images in (0, group))
    free = device_bytes - fixed.needed_bytes
    most = max(1, int(free / (MARGIN * max(1, each.activations_bytes)))) if free > 0 else 1
    groups = share // group
    return -(-groups // -(-groups // most)) * group


def bucket_values(trained: int) -> int:
    """Values that are reduced at once: half of those trained, where DeepSpeed would take 5e8 whatever the model."""
    return max(1, trained // 2)


def read_ahead_bytes(setting: int | Literal["auto"], node_bytes: int | None, ranks_per_node: int) -> int | None:
    """`data.read_ahead` of a rank in bytes; `auto` is a sixteenth of the node's memory over its ranks, 64 MiB to 1 GiB.

    None where it is `auto` and the node's memory is not known.
    """
    if setting != "auto":
        return setting
    if node_bytes is None:
        return None
    share = node_bytes // _READ_AHEAD_SHARE // ranks_per_node
    return min(max(share, _LEAST_READ_AHEAD_BYTES), _MOST_READ_AHEAD_BYTES)
