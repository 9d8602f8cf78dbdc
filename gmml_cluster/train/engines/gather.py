"""Whole tensors of what the ranks hold in parts, for reading beside the training."""

import torch
import torch.distributed as dist
from torch import Tensor

from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.slices import VALUE


class Copies:
    """Copies of all tensors that are state and whose name begins with a prefix, on the device.

    They become what a checkpoint of this moment would hold, on every rank and at every stage. Making this takes this
    rank's own slices and may run out of memory; `gather` needs no more.
    """

    @torch.no_grad()
    def __init__(self, engine: Engine, prefix: str) -> None:
        self._prefix = prefix
        self._shapes = {name: torch.Size(shape) for name, shape in engine.shapes.items() if name.startswith(prefix)}
        sizes = [shape.numel() for shape in self._shapes.values()]
        self._flat = torch.zeros(sum(sizes), device=engine.device)
        self._parts = dict(zip(self._shapes, torch.split(self._flat, sizes), strict=True))
        for piece in engine.slices():
            if piece.name in self._parts:
                self._parts[piece.name][piece.start : piece.start + piece.numel].copy_(piece.views[VALUE])

    def gather(self) -> dict[str, Tensor]:
        """The whole tensors, by what follows the prefix. A collective.

        Each element is added to the zeros of the ranks that do not own it.
        """
        dist.all_reduce(self._flat)
        return {name.removeprefix(self._prefix): part.view(self._shapes[name]) for name, part in self._parts.items()}
