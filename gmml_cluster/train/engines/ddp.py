"""Plain data parallelism: torch's DistributedDataParallel and a fused optimizer."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from gmml_cluster.errors import Fault, GmmlError
from gmml_cluster.spec.job import Clip
from gmml_cluster.train.engines.adamw import set_rates
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.partitions import Replicated
from gmml_cluster.train.engines.uncompiled import ddp_without_compiler


class DdpEngine(Engine):
    """Every rank holds everything; gradients are averaged once a step, during the last micro-batch's backward."""

    def __init__(
        self, module: nn.Module, optimizer: Optimizer, *, shapes: dict[str, tuple[int, ...]], clip: Clip | None
    ) -> None:
        with ddp_without_compiler():
            self._ddp = DistributedDataParallel(module, gradient_as_bucket_view=True)
        # A method has no buffers that training changes; broadcasting them would cost a collective a forward. Set here,
        # as torch 2.13 deprecates the argument and earlier ones lack its successor `forward_sync_buffers`.
        self._ddp.broadcast_buffers = False
        if not hasattr(self._ddp.reducer, "prepare_for_backward"):
            problem = "DDP's reducer has no prepare_for_backward; it was measured with torch 2.13"
            raise GmmlError(Fault("torch", problem, "install torch 2.13, or set engine.zero to 0"))
        self._fix_buckets()
        super().__init__(module, optimizer, Replicated(module, optimizer), shapes=shapes, clip=clip)

    def _fix_buckets(self) -> None:
        """Run a backward that yields gradients in reverse order of registration, before the first step.

        DDP rebuilds its buckets once, in the order of the first backward, and from three ranks up a sum depends on the
        position in a bucket (measured with gloo). Without this the first step after a resume, made with the first
        buckets, would not have the bits of the same step of an uninterrupted run, made with the rebuilt ones.
        """
        trained = [tensor for tensor in self._ddp.parameters() if tensor.requires_grad]
        self.backward(torch.stack([tensor.sum() for tensor in trained]).sum(), last=True)
        self._ddp.zero_grad(set_to_none=True)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        # DDP decides in forward whether the backward reduces, but which micro-batch is the last is known in `backward`
        with self._ddp.no_sync():
            return self._ddp(*args, **kwargs)

    def backward(self, loss: Tensor, last: bool) -> None:
        if last:
            # what forward does outside of no_sync; the empty list: no search of the graph for unused parameters
            self._ddp.reducer.prepare_for_backward([])
        loss.backward()  # type: ignore[no-untyped-call]

    def step(self, lr: float, weight_decay: float, extras: Tensor) -> Tensor:
        set_rates(self._optimizer, lr, weight_decay)
        vector = self._hook(self._partitioning.gradients(), extras)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return vector
