"""Keep torch's compiler from being imported where nothing is compiled: a second of a core, 2 to 4 s of each start.

torch 2.13 and DeepSpeed 0.19.8 import `torch._dynamo`, and with it inductor, in decorators that hide functions from the
compiler, and where they ask it for a setting. What is done here changes what is imported and nothing else.
"""

import contextlib
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer


def spare_optimizers() -> None:
    """Of `add_param_group` and `zero_grad`. `step` imports at every call, so `adamw.undecorated` goes round it."""
    for decorated in (Optimizer.add_param_group, Optimizer.zero_grad):
        _spare(decorated)


@contextlib.contextmanager
def ddp_without_compiler() -> Iterator[None]:
    """While DDP is made, which asks whether compiled graphs are to reduce gradients: `ddp_optimizer`, the default."""
    if "torch._dynamo" in sys.modules:  # `engine.compile`: it is to see the compiler as it is
        yield
        return
    # a context manager made of a decorated function
    _spare(vars(DistributedDataParallel)["_inside_ddp_forward"].__wrapped__)
    # torch finds its lazy modules by `__getattr__`, which an attribute precedes
    vars(torch)["_dynamo"] = SimpleNamespace(utils=SimpleNamespace(get_optimize_ddp_mode=lambda: "ddp_optimizer"))
    try:
        yield
    finally:
        del vars(torch)["_dynamo"]


@contextlib.contextmanager
def stage_3_without_compiler() -> Iterator[None]:
    """While an engine of stage 3 is made, which never compiles (`EngineSpec`).

    It decorates the hooks of each module then, and three methods when DeepSpeed is imported.
    """
    from deepspeed.runtime.zero.partitioned_param_coordinator import PartitionedParameterCoordinator

    for decorated in vars(PartitionedParameterCoordinator).values():
        _spare(decorated)
    disable = torch.compiler.disable
    torch.compiler.disable = _as_it_is  # type: ignore[assignment]  # it takes more arguments
    try:
        yield
    finally:
        torch.compiler.disable = disable


def _as_it_is(function: Any) -> Any:
    return function


def _spare(decorated: Any) -> None:
    """Have a function that is hidden from the compiler called without it; any other stays as it is.

    torch's decorator asks the compiler for such a function at the first call and keeps it in an attribute of the plain
    one, which is set here to that one itself.
    """
    plain = getattr(decorated, "__wrapped__", None)
    if plain is not None:
        setattr(plain, "__dynamo_disable", plain)  # in a class its name would be mangled
