"""LARS (arXiv 1708.03888): torch's fused SGD with momentum, and the ratios that multiply gradients before it.

A matrix's gradient is multiplied by `TRUST` times the norm of the matrix over its own, so that a step is a share of the
matrix whatever the scale of the loss; vectors have no ratio. Momentum is added before the learning rate, as MAE's
linear probe has it. Norms are over whole tensors, however an engine cuts them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim import SGD

from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.adamw import Multipliers, parameter_groups, undecorated
from gmml_cluster.train.engines.uncompiled import spare_optimizers

TRUST = 0.001


def make_sgd(module: nn.Module, optim: Optim, multipliers: Multipliers) -> SGD:
    """Fused SGD over the trained tensors, which reads `found_inf` on the device as fused AdamW does."""
    spare_optimizers()
    groups = parameter_groups(module, optim.exempt, multipliers)
    return undecorated(SGD(groups, lr=0.0, momentum=optim.betas[0], fused=True))


class TrustRatios:
    """The ratios of a step, from sums of squares that are reduced with those of the gradients.

    Args:
        names: trained tensors, in the order of the gradients' sums of squares.
        weights: this rank's parts of the trained tensors with more than one dimension, as views of what the optimizer
            updates; over the ranks every element once.
    """

    def __init__(self, names: Sequence[str], weights: Sequence[tuple[str, Tensor]], device: torch.device) -> None:
        row = {name: number for number, name in enumerate(names)}
        self._rows = torch.tensor([row[name] for name, _ in weights], dtype=torch.int64).to(device)
        self._views = [view for _, view in weights]
        self._zeros = torch.zeros(len(names), dtype=torch.float64, device=device)

    def squares(self) -> Tensor:
        """This rank's sums of squares of the weights, 0 for vectors: float64 (T,)."""
        if not self._views:
            return self._zeros
        norms = torch.stack(torch._foreach_norm(self._views, 2, dtype=torch.float64))
        return self._zeros.index_add(0, self._rows, norms.square_())

    @staticmethod
    def factors(gradient_T: Tensor, weight_T: Tensor) -> Tensor:
        """What each tensor's gradient is multiplied by, 1 where a norm is 0: float32 (T,).

        Args:
            gradient_T: reduced sums of squares of the gradients.
            weight_T: reduced sums of squares of the weights.
        """
        has_ratio = (weight_T > 0) & (gradient_T > 0)
        ratio = TRUST * (weight_T / torch.where(has_ratio, gradient_T, 1.0)).sqrt()
        return torch.where(has_ratio, ratio, 1.0).float()
