"""Estimated memory of a rank: what ZeRO leaves on it, and what a micro-batch keeps for its backward pass.

Source: METHODS 8.5-8.7. Not counted: fragmentation and workspaces; allow 15 to 25 per cent.
"""

from dataclasses import asdict, dataclass
from typing import Any

from gmml_cluster.spec.job import EngineSpec
from gmml_cluster.spec.methods.counts import Counts


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest rank."""

    parameters_bytes: int
    """fp32 weights, and their copies in bf16 under autocast."""
    gradients_bytes: int
    """fp32 gradients."""
    optimizer_bytes: int
    """Adam's two moments."""
    buffers_bytes: int
    """What DeepSpeed holds beside: at stages 1 and 2 its own copy of the weights it updates, and from stage 1 on the
    buffer that gradients are copied into before they are reduced (on GPUs)."""
    activations_bytes: int
    """A micro-batch: inputs, and what the backward pass needs."""

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return sum(asdict(self).values())

    def to_json(self) -> dict[str, Any]:
        """Plain mapping."""
        return {**asdict(self), "total_bytes": self.total_bytes}


def memory_of_rank(counts: Counts, engine: EngineSpec, *, ranks: int, images: int) -> Memory:
    """Memory of a rank that holds micro-batches of `images`.

    With P trained parameters and n ranks: 4P weights, 4P gradients, 8P moments; moments are shared out over the ranks
    from stage 1 on, gradients from stage 2, weights at stage 3. DDP shares nothing. DeepSpeed adds 4P/n at stages 1
    and 2, and 2P from stage 1 on.
    """
    stage = 0 if engine.zero == "ddp" else engine.zero
    trained, precision = counts.trained, engine.precision
    share = [-(-trained // ranks) if stage >= least else trained for least in (3, 2, 1)]
    activations = counts.activation_bytes(precision, checkpointing=engine.activation_checkpointing)
    return Memory(
        parameters_bytes=4 * share[0] + 4 * counts.frozen + counts.cast_bytes(precision),
        gradients_bytes=4 * share[1],
        optimizer_bytes=8 * share[2],
        buffers_bytes=(4 * share[2] if stage in (1, 2) else 0) + (4 * bucket_values(trained) if stage else 0),
        activations_bytes=images * activations,
    )


def bucket_values(trained: int) -> int:
    """Values that are reduced at once: half of those trained (METHODS 8.5), where DeepSpeed would take 5e8."""
    return max(1, trained // 2)
