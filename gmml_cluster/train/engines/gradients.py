"""Between reduction and update: norms, clip and the finite flag, at one place for every engine (DESIGN 7 and 8).

Here gradients are already averaged over ranks. One all-reduce of one float64 vector, and nothing waits for the device.
"""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from gmml_cluster.errors import GmmlError
from gmml_cluster.spec.job import Clip

SKIPS_LATCH = 3
_EPS = 1e-6

NamedGradient = tuple[str, Tensor]


class Seam:
    """Judges and clips the gradients of a step.

    Attributes:
        names: trained tensors, in the order of the vector's first elements.
        found_inf: 0-d float32, exactly 1 where the update must not happen, else exactly 0; on the device.
        skips_in_a_row: 0-d int64 on the device; at 3 it stays, and with it `found_inf`, until it is set anew.

    Args:
        counts: whether this rank's gradients enter the sums; where ranks hold the same whole gradients one does.
    """

    def __init__(self, names: Sequence[str], clip: Clip | None, device: torch.device, *, counts: bool) -> None:
        self.names = tuple(names)
        self.found_inf = torch.zeros((), dtype=torch.float32, device=device)
        self.skips_in_a_row = torch.zeros((), dtype=torch.int64, device=device)
        self._clip, self._device, self._counts = clip, device, counts
        self._order: tuple[str, ...] | None = None
        self._index = torch.empty(0, dtype=torch.int64, device=device)

    @torch.no_grad()
    def __call__(self, gradients: Sequence[NamedGradient], extras: Tensor) -> Tensor:
        """Reduce, judge, clip in place.

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
        if views and self._counts:
            norms = torch.stack(torch._foreach_norm(views, 2, dtype=torch.float64))
            vector[:tensors].index_add_(0, self._index, norms.square_())
        dist.all_reduce(vector)
        self._judge(vector)
        if views and self._clip is not None:
            self._shorten(views, vector[:tensors], self._clip)
        return vector

    def _learn_order(self, order: tuple[str, ...]) -> None:
        if self._order is None:
            row = {name: number for number, name in enumerate(self.names)}
            self._index = torch.tensor([row[name] for name in order], dtype=torch.int64).to(self._device)
            self._order = order
        elif self._order != order:
            changed = sorted(set(self._order) ^ set(order))
            raise GmmlError(
                f"gradients: {', '.join(changed)} had one in some steps only; "
                "every trained tensor takes part in every micro-batch; freeze it, or add 0 * its sum to the loss"
            )

    def _judge(self, vector: Tensor) -> None:
        bad = torch.isfinite(vector).all().logical_not_()
        latched = self.skips_in_a_row >= SKIPS_LATCH
        self.found_inf.copy_(bad | latched)
        counted = (self.skips_in_a_row + 1) * bad
        self.skips_in_a_row.copy_(torch.where(latched, self.skips_in_a_row, counted))

    def _shorten(self, views: list[Tensor], squares: Tensor, clip: Clip) -> None:
        if clip.by == "global":
            squares = squares.sum().expand_as(squares)
        factors = (clip.norm / (squares.sqrt() + _EPS)).clamp_(max=1.0).float()
        torch._foreach_mul_(views, list(factors[self._index].unbind()))
