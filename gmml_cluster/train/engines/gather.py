"""Whole tensors of what the ranks hold in parts, for reading beside the training."""

import torch
import torch.distributed as dist
from torch import Tensor

from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.slices import VALUE


@torch.no_grad()
def gathered(engine: Engine, prefix: str) -> dict[str, Tensor]:
    """Copies of all tensors that are state and whose name begins with `prefix`, by the rest of the name. A collective.

    They are what a checkpoint of this moment would hold, on every rank and at every stage: each element is added to
    the zeros of the ranks that do not own it. On the device; training's own tensors are only read.
    """
    shapes = {name: torch.Size(shape) for name, shape in engine.shapes.items() if name.startswith(prefix)}
    sizes = [shape.numel() for shape in shapes.values()]
    flat = torch.zeros(sum(sizes), device=engine.device)
    parts = dict(zip(shapes, torch.split(flat, sizes), strict=True))
    for piece in engine.slices():
        if piece.name in parts:
            parts[piece.name][piece.start : piece.start + piece.numel].copy_(piece.views[VALUE])
    dist.all_reduce(flat)
    return {name.removeprefix(prefix): part.view(shapes[name]) for name, part in parts.items()}
