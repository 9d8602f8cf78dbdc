"""Slices: contiguous ranges of flattened tensors, by name, so that any ranks and stage can load what others saved.

Nothing here knows DeepSpeed.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gmml_cluster.errors import CheckpointError, Fault, GmmlError

VALUE = "value"
Read = Callable[[str, str, int, int], Tensor | None]


@dataclass(frozen=True)
class Slice:
    """Elements `start` to `start + numel` of the flattened tensor `name`.

    Attributes:
        shape: of the whole tensor.
        views: by key, 1-d views of what training uses: `value`, and `exp_avg` and `exp_avg_sq` of a trained tensor.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    views: dict[str, Tensor]

    @property
    def numel(self) -> int:
        """Elements of the slice."""
        return self.views[VALUE].numel()

    def narrow(self, start: int, numel: int) -> "Slice":
        """The part of this slice that begins `start` elements after its own start."""
        views = {key: view.narrow(0, start, numel) for key, view in self.views.items()}
        return Slice(self.name, self.shape, self.start + start, views)


def equal_part(total: int, ranks: int, rank: int) -> tuple[int, int]:
    """Start and length of a rank's part of `total` elements cut into parts of ceil(total / ranks)."""
    part = -(-total // ranks)
    start = min(part * rank, total)
    return start, min(part, total - start)


def share(wholes: Iterable[Slice], ranks: int, rank: int) -> list[Slice]:
    """A rank's part of tensors that every rank holds whole; empty parts are left out."""
    parts = [whole.narrow(*equal_part(whole.numel, ranks, rank)) for whole in wholes]
    return [part for part in parts if part.numel]


def buffers(module: nn.Module) -> list[Slice]:
    """The module's persistent buffers, whole. What is computed from the job (fixed positions) is not saved."""
    kept = module.state_dict(keep_vars=True).keys()
    found = [(name, buffer) for name, buffer in module.named_buffers() if name in kept]
    return [Slice(name, tuple(buffer.shape), 0, {VALUE: buffer.view(-1)}) for name, buffer in found]


def saved_shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes by name of all tensors that are state: trained and frozen parameters, and persistent buffers."""
    parameters = {name: tuple(tensor.shape) for name, tensor in module.named_parameters()}
    return {**parameters, **{part.name: part.shape for part in buffers(module)}}


def fill(held: Iterable[Slice], read: Read) -> None:
    """Copy into each view what `read(name, key, start, numel)` returns; None leaves the view as it is.

    Raises:
        CheckpointError: it returned another number of elements.
    """
    for part in held:
        for key, view in part.views.items():
            given = read(part.name, key, part.start, view.numel())
            if given is None:
                continue
            if given.shape != view.shape:
                problem = f"{key} from element {part.start} has shape {tuple(given.shape)}, not ({view.numel()},)"
                raise CheckpointError(Fault(part.name, f"{problem}; the checkpoint is damaged"))
            view.copy_(given)


def check_owners(owned: Sequence[Slice], shapes: dict[str, tuple[int, ...]], device: torch.device) -> None:
    """Check over all ranks that every element of every tensor has exactly one owner. A collective.

    An element without an owner would be missing from every checkpoint, and the run would notice at its resume.

    Raises:
        GmmlError: one has none or several; the engine does not partition tensors as this code expects.
    """
    here = {part.name: [part.start, part.numel] for part in owned}
    ranges = torch.tensor([here.get(name, [0, 0]) for name in shapes], dtype=torch.int64)
    gathered = [torch.zeros_like(ranges, device=device) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, ranges.to(device))
    for (name, shape), of_ranks in zip(shapes.items(), torch.stack(gathered, 1).tolist(), strict=True):
        _check_tiling(name, torch.Size(shape).numel(), of_ranks)


def _check_tiling(name: str, total: int, ranges: list[list[int]]) -> None:
    end = 0
    for start, numel in sorted(part for part in ranges if part[1]):
        if start != end:
            break
        end += numel
    else:
        if end == total:
            return
    problem = f"ranks own the ranges {ranges} (start, length) of {total} elements; each element has one owner"
    raise GmmlError(Fault(name, problem, "install the versions of torch and deepspeed in constraints.txt"))
