"""Fused AdamW: its parameter groups, which tensors are decayed, and its state before the first step."""

import inspect
from collections.abc import Iterable
from types import MethodType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gmml_cluster.spec.job import Optim

ADAM_STATE = ("exp_avg", "exp_avg_sq")
Exempt = Literal["vectors", "vectors_and_positions"]


def is_decayed(name: str, dims: int, exempt: Exempt) -> bool:
    """Whether weight decay applies to a tensor.

    Args:
        name: the parameter's name.
        dims: its number of dimensions.
        exempt: `vectors` (GMML and MAE as released) leaves out tensors of one dimension and biases;
            `vectors_and_positions` leaves out position embeddings and tokens too.
    """
    if dims <= 1 or name.endswith(".bias"):
        return False
    return exempt == "vectors" or not name.rpartition(".")[2].endswith(("pos_embed", "_token"))


def parameter_groups(module: nn.Module, exempt: Exempt) -> list[dict[str, Any]]:
    """The trained tensors as AdamW's groups, each with a flag `decayed`; a group without tensors is left out."""
    trained = [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]
    groups = []
    for decayed in (True, False):
        members = [tensor for name, tensor in trained if is_decayed(name, tensor.ndim, exempt) is decayed]
        if members:
            groups.append({"params": members, "decayed": decayed, "weight_decay": 0.0})
    return groups


def make_adamw(module: nn.Module, optim: Optim) -> AdamW:
    """Fused AdamW over the trained tensors: the only variant that reads `found_inf` on the device, without a wait."""
    _spare_dynamo()
    adamw = AdamW(parameter_groups(module, optim.exempt), lr=0.0, betas=optim.betas, eps=optim.eps, fused=True)
    plain = torch.no_grad()(inspect.unwrap(type(adamw).step))
    adamw.step = MethodType(plain, adamw)  # type: ignore[method-assign]
    return adamw


def _spare_dynamo() -> None:
    """Keep `torch._dynamo` and inductor from being imported where nothing is compiled.

    Their import takes 2 to 4 s of each start. torch 2.13 imports them in the decorators of `Optimizer.add_param_group`,
    `zero_grad` and `step`: the first two ask for a function that the compiler passes over and keep it in an attribute,
    which is set here to the function itself; the third imports them for a graph break at every call, so `make_adamw`
    goes round it. Nothing else of `step`'s decorators is lost but the profiler's label and hooks of `Optimizer`.
    """
    for decorated in (AdamW.add_param_group, AdamW.zero_grad):
        plain = getattr(decorated, "__wrapped__", None)
        if plain is not None:
            setattr(plain, "__dynamo_disable", plain)  # in a class its name would be mangled


def set_rates(adamw: AdamW, lr: float, decay: float) -> None:
    """Set this step's learning rate everywhere and its weight decay where tensors are decayed."""
    # DeepSpeed replaces the tensors of these groups by flat partitions, but keeps the dictionaries and their keys
    for group in adamw.param_groups:
        group["lr"] = lr
        group["weight_decay"] = decay if group["decayed"] else 0.0


def create_state(adamw: AdamW, tensors: Iterable[Tensor]) -> None:
    """Create the state that AdamW creates in its first step, so that it can be saved and loaded before that.

    The step count is a float32 scalar on the tensor's device, as fused AdamW keeps it; a count on the host, as the
    other variants have, would make the update wait.
    """
    for tensor in tensors:
        state: dict[str, Tensor] = {key: torch.zeros_like(tensor, requires_grad=False) for key in ADAM_STATE}
        adamw.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=tensor.device), **state}
