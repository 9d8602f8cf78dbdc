"""Fused AdamW; and of any optimizer its parameter groups, which tensors are decayed, and its state at the start."""

import inspect
from collections.abc import Callable, Iterable
from types import MethodType
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.uncompiled import spare_optimizers

_ADAM_STATE, _SGD_STATE = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)
Exempt = Literal["vectors", "vectors_and_positions", "none"]
Multipliers = Callable[[str], tuple[float, float]]
"""Of a trained parameter's name: what its learning rate and its weight decay are multiplied by."""


_Optimizer = TypeVar("_Optimizer", bound=Optimizer)


def state_keys(optimizer: Optimizer) -> tuple[str, ...]:
    """What the optimizer keeps of each trained element: Adam's two moments, or the momentum of LARS."""
    return _ADAM_STATE if isinstance(optimizer, AdamW) else _SGD_STATE


def is_decayed(name: str, dims: int, exempt: Exempt) -> bool:
    """Whether weight decay applies to a tensor.

    Args:
        name: the parameter's name.
        dims: its number of dimensions.
        exempt: `vectors` (GMML and MAE as released) leaves out tensors of one dimension and biases;
            `vectors_and_positions` leaves out position embeddings and tokens too; `none` leaves out nothing.
    """
    if exempt == "none":
        return True
    if dims <= 1 or name.endswith(".bias"):
        return False
    return exempt == "vectors" or not name.rpartition(".")[2].endswith(("pos_embed", "_token"))


def unscaled(name: str) -> tuple[float, float]:
    """The multipliers of a method that has none."""
    return 1.0, 1.0


def parameter_groups(module: nn.Module, exempt: Exempt, multipliers: Multipliers = unscaled) -> list[dict[str, Any]]:
    """The trained tensors as AdamW's groups: decayed ones first, and in these by multipliers, as they first occur.

    Each group has `lr_scale` and `decay_scale`, by which the scheduled values are multiplied; an exempt tensor's
    `decay_scale` is 0.
    """
    members: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, tensor in module.named_parameters():
        if tensor.requires_grad:
            lr_scale, decay_scale = multipliers(name)
            key = lr_scale, decay_scale * is_decayed(name, tensor.ndim, exempt)
            members.setdefault(key, []).append(tensor)
    ordered = sorted(members.items(), key=lambda item: item[0][1] == 0)
    return [
        {"params": tensors, "lr_scale": lr_scale, "decay_scale": decay_scale, "weight_decay": 0.0}
        for (lr_scale, decay_scale), tensors in ordered
    ]


def make_adamw(module: nn.Module, optim: Optim, multipliers: Multipliers = unscaled) -> AdamW:
    """Fused AdamW over the trained tensors: the only variant that reads `found_inf` on the device, without a wait."""
    spare_optimizers()
    groups = parameter_groups(module, optim.exempt, multipliers)
    return undecorated(AdamW(groups, lr=0.0, betas=optim.betas, eps=optim.eps, fused=True))


def undecorated(optimizer: _Optimizer) -> _Optimizer:
    """The optimizer without the decorators of its `step`, which import torch's compiler at every call.

    Nothing else of them is lost but the profiler's label and hooks of `Optimizer`.
    """
    plain = torch.no_grad()(inspect.unwrap(type(optimizer).step))
    optimizer.step = MethodType(plain, optimizer)  # type: ignore[method-assign]
    return optimizer


def set_rates(optimizer: Optimizer, lr: float, decay: float) -> None:
    """Set this step's learning rate and weight decay, each multiplied by its group's scale."""
    # DeepSpeed replaces the tensors of these groups by flat partitions, but keeps the dictionaries and their keys
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
        group["weight_decay"] = decay * group["decay_scale"]


def create_state(optimizer: Optimizer, tensors: Iterable[Tensor]) -> None:
    """Create the state that the first step would create, so that it can be saved and loaded before that.

    The step count is a float32 scalar on the tensor's device, as fused AdamW keeps it; a count on the host, as the
    other variants have, would make the update wait. SGD has none, and leaves this one at 0.
    """
    for tensor in tensors:
        state: dict[str, Tensor] = {key: torch.zeros_like(tensor, requires_grad=False) for key in state_keys(optimizer)}
        optimizer.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=tensor.device), **state}
