"""The plain control: torch's DistributedDataParallel and fused AdamW."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import AdamW

from gmml_cluster.errors import GmmlError
from gmml_cluster.spec.job import Clip
from gmml_cluster.train.engines.adamw import set_rates
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.partitions import Replicated


class DdpEngine(Engine):
    """Every rank holds everything; gradients are averaged once a step, during the last micro-batch's backward."""

    def __init__(
        self, module: nn.Module, adamw: AdamW, *, shapes: dict[str, tuple[int, ...]], clip: Clip | None
    ) -> None:
        self._ddp = DistributedDataParallel(module, broadcast_buffers=False, gradient_as_bucket_view=True)
        if not hasattr(self._ddp.reducer, "prepare_for_backward"):
            raise GmmlError("torch: DDP's reducer has no prepare_for_backward; this code was measured with torch 2.13")
        self._settle_buckets()
        super().__init__(module, adamw, Replicated(module, adamw), shapes=shapes, clip=clip)

    def _settle_buckets(self) -> None:
        """Let DDP see gradients in reverse order of registration once, before the first step.

        It rebuilds its buckets in the order of the first backward, and from three ranks up a sum depends on the place
        in a bucket: without this the first step after a resume would not have the bits of an uninterrupted run.
        """
        trained = [tensor for tensor in self._ddp.parameters() if tensor.requires_grad]
        self.backward(torch.stack([tensor.sum() for tensor in trained]).sum(), last=True)
        self._ddp.zero_grad(set_to_none=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # DDP decides in forward whether the backward reduces; here that is known at the backward alone
        with self._ddp.no_sync():
            return self._ddp(*args, **kwargs)

    def backward(self, loss: Tensor, last: bool) -> None:
        if last:
            self._ddp.reducer.prepare_for_backward([])
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, weight_decay: float, extras: Tensor) -> Tensor:
        set_rates(self._adamw, lr, weight_decay)
        vector = self._seam(self._layout.gradients(), extras)
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        return vector
