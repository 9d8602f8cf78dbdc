"""What every engine promises. An engine hides how a step is computed: plain DDP, or DeepSpeed's ZeRO stages 0 to 3.

Weights are fp32 in all of them; `precision: bf16` runs the module's forward under autocast. The process group exists
before an engine is made, and the module is the same on every rank.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from gmml_cluster.spec.job import Clip
from gmml_cluster.train.engines.adamw import create_state
from gmml_cluster.train.engines.ema import lerp_each, lerp_together
from gmml_cluster.train.engines.gradients import GradientHook
from gmml_cluster.train.engines.lars import TrustRatios
from gmml_cluster.train.engines.partitions import Partitioning
from gmml_cluster.train.engines.slices import VALUE, Read, Slice, check_owners, fill

__all__ = ["Engine", "Read", "Slice"]


class Engine(ABC):
    """One rank's part in the training step.

    A step is `forward` and `backward` for each micro-batch, then `step`. Every micro-batch touches every trained
    tensor: one that is used on some ranks only gives ZeRO collectives of unequal sizes.

    Attributes:
        module: the bare module; at stage 3 its parameters are empty outside of `forward`.
        names: trained tensors, in the order of the sums of squares that `step` returns.
        shapes: of all tensors that are state, as they were before a stage 3 took them apart.
    """

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        partitioning: Partitioning,
        *,
        shapes: dict[str, tuple[int, ...]],
        clip: Clip | None,
    ) -> None:
        trained = [name for name, tensor in module.named_parameters() if tensor.requires_grad]
        device = partitioning.optimizer_tensors()[0].device
        contributes = not partitioning.replicated or dist.get_rank() == 0
        self._optimizer, self._partitioning = optimizer, partitioning
        create_state(optimizer, partitioning.optimizer_tensors())
        ratios = None
        if isinstance(optimizer, SGD):
            matrices = {name for name in trained if len(shapes[name]) > 1}
            parts = [(part.name, part.views[VALUE]) for part in self.slices() if part.name in matrices]
            ratios = TrustRatios(trained, parts, device)
        self._hook = GradientHook(trained, clip, device, contributes=contributes, ratios=ratios)
        self.module, self.names, self.shapes = module, self._hook.names, shapes
        # fused optimizers read this attribute in every step; it is the same tensor for good, so a skip needs no host
        optimizer.found_inf = self._hook.found_inf  # type: ignore[attr-defined]
        check_owners(self.slices(), shapes, device)

    @abstractmethod
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Call the module."""

    @abstractmethod
    def backward(self, loss: Tensor, last: bool) -> None:
        """Add a micro-batch's gradients.

        Args:
            loss: 0-d; ranks * group / batch times the sum of the micro-batch's group losses, as ranks are averaged.
            last: whether it is the step's last micro-batch.
        """

    @abstractmethod
    def step(self, lr: float, weight_decay: float, extras: Tensor) -> Tensor:
        """Reduce, clip and update; nothing waits for the device.

        Except at stage 3 on GPUs: once a micro-batch DeepSpeed's host waits for the stream that reduces gradients,
        and wherever it is more than two reductions ahead.

        Where the reduced vector is not finite, weights, moments and Adam's step count keep their bits.

        Args:
            lr: this step's learning rate.
            weight_decay: this step's weight decay.
            extras: float64 (E,) on the device, summed over ranks.

        Returns:
            float64 (T + E,) on the device, equal on all ranks: sums of squares of each tensor's gradient before
            clipping, in the order of `names`, then the sums of extras.
        """

    @torch.no_grad()
    def lerp(self, targets: Sequence[str], sources: Sequence[str], weight: float) -> None:
        """Move frozen tensors towards trained ones, after `step`: target + weight * (source - target).

        Each rank moves what it holds. Where the step's update was skipped, the targets keep their bits. Nothing waits
        for the device.

        Args:
            targets: names of frozen parameters.
            sources: names of trained parameters, each of its target's shape.
            weight: 0 to 1.
        """
        weight_now = weight * (1 - self._hook.found_inf)
        move = lerp_each if self.device.type == "cpu" else lerp_together
        move(self._partitioning.working_copies(targets), self._partitioning.working_copies(sources), weight_now)

    @property
    def device(self) -> torch.device:
        """Where the step is computed, and what its process group sends."""
        return self._hook.found_inf.device

    @property
    def skips_in_a_row(self) -> Tensor:
        """0-d int64 on the device: skipped updates in a row, equal on all ranks.

        It is state: a resume fills in what was saved. At 3 it stays, and every later update is skipped too.
        """
        return self._hook.skips_in_a_row

    @property
    def adam_step(self) -> int:
        """Updates that were applied, as AdamW counts them, 0 with LARS; reading it waits for the device."""
        return int(self._optimizer.state[self._partitioning.optimizer_tensors()[0]]["step"])

    def set_adam_step(self, step: int) -> None:
        """Set AdamW's own count, which its bias correction reads; exact up to 2**24, as it is a float32."""
        for tensor in self._partitioning.optimizer_tensors():
            self._optimizer.state[tensor]["step"].fill_(step)

    def slices(self) -> list[Slice]:
        """What this rank saves; over the ranks every element once. The views show training's state, not a copy."""
        return self._partitioning.owned()

    def load(self, read: Read) -> None:
        """Take weights, moments, frozen tensors and buffers from a checkpoint of any ranks and stage. A collective.

        Adam's step count and `skips_in_a_row` are set by themselves.

        Args:
            read: `read(name, key, start, numel)` returns those elements as a 1-d float32 tensor on any device, or None
                to leave them as they are; it is called for just the ranges that this rank holds.

        Raises:
            CheckpointError: `read` returned another number of elements.
        """
        with torch.no_grad():
            fill(self._partitioning.held(), read)
            self._partitioning.refresh()
