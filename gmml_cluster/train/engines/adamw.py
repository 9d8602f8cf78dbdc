"""AdamW and what it is told at each step: learning rate, weight decay, and which tensors are exempt (METHODS 0.8).

The laws are pure functions in float64: a step's values depend on the step alone, so nothing of a schedule is saved.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gmml_cluster.spec.job import Optim

ADAM_STATE = ("exp_avg", "exp_avg_sq")
Exempt = Literal["vectors", "vectors_and_positions"]


def _half_cosine(base: float, final: float, part: float) -> float:
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * part))


def steps_law(step: int, *, base: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """S1 of METHODS 0.8: a line from 0 that reaches `base` on the last warm-up step, then a half cosine to `final`.

    The cosine starts at `base` again and would reach `final` on step `total_steps`; from there on it stays. A warm-up
    of one step is one step at 0, as in the released code.
    """
    if step < warmup_steps:
        return base * (step / (warmup_steps - 1)) if warmup_steps > 1 else 0.0
    if step >= total_steps:
        return final
    return _half_cosine(base, final, (step - warmup_steps) / (total_steps - warmup_steps))


def fractional_law(step: int, *, base: float, final: float, warmup_steps: int, total_steps: int) -> float:
    """S2 of METHODS 0.8: a line from 0 that reaches `base` on the step after warm-up, then a half cosine to `final`."""
    if step < warmup_steps:
        return base * step / warmup_steps
    if step >= total_steps:
        return final
    return _half_cosine(base, final, (step - warmup_steps) / (total_steps - warmup_steps))


_LAWS = {"steps": steps_law, "fractional": fractional_law}


def peak_learning_rate(optim: Optim, batch: int) -> float:
    """The learning rate after warm-up: `lr` scaled to the images of a step, or as it is where `lr_per` is null."""
    return optim.lr if optim.lr_per is None else optim.lr * batch / optim.lr_per


def learning_rate(optim: Optim, step: int, *, batch: int, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of a step.

    Args:
        optim: base rate and schedule.
        step: counted from 0.
        batch: images a step.
        warmup_steps: length of the warm-up.
        total_steps: length of the schedule.
    """
    law, base = _LAWS[optim.schedule.law], peak_learning_rate(optim, batch)
    return law(step, base=base, final=optim.schedule.final_lr, warmup_steps=warmup_steps, total_steps=total_steps)


def weight_decay(optim: Optim, step: int, *, total_steps: int) -> float:
    """The weight decay of a step: S1 without warm-up; AdamW multiplies it by the scheduled learning rate."""
    decay = optim.weight_decay
    return steps_law(step, base=decay.start, final=decay.end, warmup_steps=0, total_steps=total_steps)


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay of every step of a run.

    Attributes:
        batch: images a step.
        warmup_steps: length of the warm-up.
        total_steps: length of the schedule, which may be shorter or longer than the run.
    """

    optim: Optim
    batch: int
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(cls, optim: Optim, *, batch: int, run_steps: int, epoch_steps: float) -> "Schedule":
        """The course of a run of `run_steps` steps, where the first corpus lasts `epoch_steps` steps."""
        warmup = optim.schedule.warmup.in_steps(batch=batch, epoch_steps=epoch_steps)
        samples = optim.schedule.samples
        return cls(optim, batch, warmup, run_steps if samples is None else -(-samples // batch))

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        lengths = {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps}
        return learning_rate(self.optim, step, batch=self.batch, **lengths)

    def weight_decay(self, step: int) -> float:
        """The weight decay of a step, counted from 0."""
        return weight_decay(self.optim, step, total_steps=self.total_steps)


def is_decayed(name: str, dims: int, exempt: Exempt) -> bool:
    """Whether a tensor is decayed.

    `vectors` (W1: GMML, MAE) spares tensors of one dimension and biases; `vectors_and_positions` (W3) spares positions
    and tokens too.
    """
    if dims <= 1 or name.endswith(".bias"):
        return False
    return exempt == "vectors" or not name.rpartition(".")[2].endswith(("pos_embed", "_token"))


def parameter_groups(module: nn.Module, exempt: Exempt) -> list[dict[str, Any]]:
    """The trained tensors as AdamW's groups, each with `decayed`; a group without tensors is left out."""
    trained = [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]
    groups = []
    for decayed in (True, False):
        members = [tensor for name, tensor in trained if is_decayed(name, tensor.ndim, exempt) is decayed]
        if members:
            groups.append({"params": members, "decayed": decayed, "weight_decay": 0.0})
    return groups


def make_adamw(module: nn.Module, optim: Optim) -> AdamW:
    """Fused AdamW over the trained tensors: the one kind that honours `found_inf` without asking the host."""
    return AdamW(parameter_groups(module, optim.exempt), lr=0.0, betas=optim.betas, eps=optim.eps, fused=True)


def set_rates(adamw: AdamW, lr: float, decay: float) -> None:
    """Set this step's learning rate everywhere and its weight decay where tensors are decayed."""
    for group in adamw.param_groups:
        group["lr"] = lr
        group["weight_decay"] = decay if group["decayed"] else 0.0


def create_state(adamw: AdamW, tensors: Iterable[Tensor]) -> None:
    """Give AdamW the state it would build in its first step, so that it can be saved and loaded before."""
    for tensor in tensors:
        state: dict[str, Tensor] = {key: torch.zeros_like(tensor, requires_grad=False) for key in ADAM_STATE}
        adamw.state[tensor] = {"step": torch.zeros((), dtype=torch.float32, device=tensor.device), **state}
