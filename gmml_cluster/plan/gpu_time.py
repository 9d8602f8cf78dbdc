"""How long a run takes on GPUs, by arithmetic and a stated assumption, and whether a rank has enough to do."""

from dataclasses import dataclass

from gmml_cluster.spec.methods.counts import Counts, Precision
from gmml_cluster.spec.scalars import Price
from gmml_cluster.wording import counted

GPU = "H100"
PEAK_FLOPS: dict[Precision, float] = {"bf16": 989e12, "fp32": 67e12}
"""Peak of an H100 SXM for dense matrix products; fp32 without TF32."""
UTILISATION = 0.30
"""Share of the peak that is assumed: an estimate for ViT-L with eager blocks is 0.32; nothing is measured yet."""
_LAUNCH_S = 8e-6
_LAUNCHES = 2000
"""Of a micro-batch, outside the blocks: draws, augmentation, optimizer."""
_LAUNCHES_OF_A_BLOCK = 100
"""Forward and backward of one block, eager."""


@dataclass(frozen=True)
class GpuTime:
    """What the arithmetic of a run takes."""

    hours: float
    """Of one GPU."""
    days: tuple[float, float]
    """At the fewest and at the most ranks."""
    assumption: str
    """In words, to be shown beside the figures."""


@dataclass(frozen=True)
class Cost:
    """What GPU hours cost."""

    amount: float
    """Of all of them together, where the cluster's GPUs are as fast as is assumed."""
    currency: str
    """As the profile writes it, such as `EUR`."""

    def __str__(self) -> str:
        return f"{self.amount:,.2f} {self.currency}"


def gpu_time(total_flops: float, precision: Precision, ranks: tuple[int, int]) -> GpuTime:
    """GPU time of a run of so many FLOP, shared by `ranks`, fewest and most, each with a GPU of its own."""
    hours = total_flops / (UTILISATION * PEAK_FLOPS[precision]) / 3600
    peak = f"{PEAK_FLOPS[precision] / 1e12:,.0f} TFLOP/s in {precision}"
    assumption = f"assuming {UTILISATION:.0%} of an {GPU}'s peak of {peak}, and data that keep up"
    return GpuTime(hours, (hours / ranks[0] / 24, hours / ranks[1] / 24), assumption)


def cost_of(time: GpuTime, price: Price | None) -> Cost | None:
    """What the hours cost at a price; None without one."""
    return None if price is None else Cost(time.hours * price.amount, price.currency)


def too_little_to_do(counts: Counts, precision: Precision, *, images: int, ranks: int) -> str:
    """Why more ranks than these gain nothing: launching kernels takes longer than they do; empty if it does not.

    Args:
        counts: what an image costs.
        precision: of the matrix products.
        images: of a micro-batch.
        ranks: number of ranks.
    """
    launching = _LAUNCH_S * (_LAUNCHES + _LAUNCHES_OF_A_BLOCK * sum(stack.blocks for stack in counts.stacks))
    computing = images * counts.step_flops / (UTILISATION * PEAK_FLOPS[precision])
    if ranks == 1 or computing >= launching:
        return ""
    figures = f"{counted(images, 'image')} on each of {ranks} ranks take about {computing * 1e3:.2g} ms of arithmetic"
    hint = "use fewer ranks, or a larger batch.size (its learning rate with it)"
    return f"{figures}, launching their kernels about {launching * 1e3:.2g} ms: more GPUs gain little; {hint}"
