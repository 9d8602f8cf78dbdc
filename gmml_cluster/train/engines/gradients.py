"""Between the reduction of gradients and the update: norms, the finite flag and the clip, one code for every engine.

Gradients are already averaged over the ranks here. One all-reduce of one small float64 vector; nothing waits for the
device, since a read of a norm would stop the queue once a step.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gmml_cluster.errors import Fault, GmmlError
from gmml_cluster.spec.job import Clip
from gmml_cluster.train.engines.lars import TrustRatios

SKIPS_LATCH = 3
"""After so many skipped updates in a row every later one is skipped too, until the count is reset."""
_EPS = 1e-6  # as in torch's `clip_grad_norm_`

NamedGradient = tuple[str, Tensor]


class GradientHook:
    """Reduces the norms of a step's gradients, decides whether the update happens, and clips in place.

    Attributes:
        names: trained tensors, in the order of the vector's first elements.
        found_inf: 0-d float32 on the device: 1 where the update must not happen, else 0. Fused optimizers read it.
            Exactly 0 or 1: with 2 the update is applied and the step count goes down (torch 2.13).
        skips_in_a_row: 0-d int64 on the device; at `SKIPS_LATCH` it stays, and `found_inf` with it.

    Args:
        ratios: those of LARS, by which gradients are multiplied; None for other optimizers.
        contributes: whether this rank's gradients enter the sums; where all ranks hold the same whole gradients, only
            rank 0's do, else each tensor would be counted once a rank.
    """

    def __init__(
        self,
        names: Sequence[str],
        clip: Clip | None,
        device: torch.device,
        *,
        contributes: bool,
        ratios: TrustRatios | None = None,
    ) -> None:
        self.names = tuple(names)
        self.found_inf = torch.zeros((), dtype=torch.float32, device=device)
        self.skips_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._clip, self._device, self._contributes, self._ratios = clip, device, contributes, ratios
        self._order: tuple[str, ...] | None = None
        self._rows = torch.empty(0, dtype=torch.int64, device=device)

    @torch.no_grad()
    def __call__(self, gradients: Sequence[NamedGradient], extras: Tensor) -> Tensor:
        """Reduce, check and clip.

        Args:
            gradients: this rank's slices of the averaged gradients, as 1-d views of what the optimizer reads.
            extras: float64 (E,) of this rank, summed over ranks.

        Returns:
            float64 (T + E,), equal on all ranks: sums of squares per tensor before clipping, then the sums of extras.
        """
        self._learn_order(tuple(name for name, _ in gradients))
        views = [view for _, view in gradients]
        tensors = len(self.names)
        vector = torch.cat([torch.zeros(tensors, dtype=torch.float64, device=self._device), extras])
        if views and self._contributes:
            # in float64: a float32 sum of squares, and so the clip, would depend on how a stage cuts tensors
            norms = torch.stack(torch._foreach_norm(views, 2, dtype=torch.float64))
            # a rank has one slice of a tensor at most, so no two rows are equal and no order of additions can show
            vector[:tensors].index_add_(0, self._rows, norms.square_())
        if self._ratios is not None:  # behind all else: the sums' places in the vector are part of exactness
            vector = torch.cat([vector, self._ratios.squares()])
        dist.all_reduce(vector)  # every rank takes part, also one that owns padding alone
        self._decide(vector)
        if self._ratios is not None:
            vector, weights = vector[:-tensors], vector[-tensors:]
            if views:
                self._multiply(views, self._ratios.factors(vector[:tensors], weights))
        if views and self._clip is not None:
            self._clip_views(views, vector[:tensors], self._clip)
        return vector

    def _learn_order(self, order: tuple[str, ...]) -> None:
        """Upload the vector's row of each slice, once; a change later means that a tensor's gradient went missing."""
        if self._order is None:
            row = {name: number for number, name in enumerate(self.names)}
            self._rows = torch.tensor([row[name] for name in order], dtype=torch.int64).to(self._device)
            self._order = order
        elif self._order != order:
            changed = ", ".join(sorted(set(self._order) ^ set(order)))
            raise missing_gradient(changed, "had a gradient in some steps only")

    def _decide(self, vector: Tensor) -> None:
        """Set `found_inf` and the count of skips from the reduced vector: NaN and inf of any rank survive the sum."""
        bad = torch.isfinite(vector).all().logical_not_()
        latched = self.skips_in_a_row >= SKIPS_LATCH
        # in place, and without a branch on the host: AdamW keeps this very tensor and reads it on the device
        self.found_inf.copy_(bad | latched)
        counted = (self.skips_in_a_row + 1) * bad
        self.skips_in_a_row.copy_(torch.where(latched, self.skips_in_a_row, counted))

    def _clip_views(self, views: list[Tensor], squares: Tensor, clip: Clip) -> None:
        if clip.by == "global":
            squares = squares.sum().expand_as(squares)
        # not finite where the vector is not: the gradients are spoilt then, but the skipped update does not read them
        factors = (clip.norm / (squares.sqrt() + _EPS)).clamp_(max=1.0).float()
        self._multiply(views, factors)

    def _multiply(self, views: list[Tensor], factors: Tensor) -> None:
        torch._foreach_mul_(views, list(factors[self._rows].unbind()))


def missing_gradient(name: str, problem: str) -> GmmlError:
    """The error of a trained tensor that a micro-batch left out.

    It is fatal: a tensor used on some ranks only gives ZeRO collectives of unequal sizes, a hang on NCCL.
    """
    rule = "every trained tensor takes part in every micro-batch"
    return GmmlError(Fault(name, f"{problem}; {rule}", "freeze it, or add 0 * its sum to the loss"))
