"""From a job's `engine` section to the engine of a rank."""

import torch
from torch import nn

from gmml_cluster.spec.engine import EngineSpec, Zero
from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.adamw import Multipliers, make_adamw, unscaled
from gmml_cluster.train.engines.compiled import compile_blocks
from gmml_cluster.train.engines.ddp import DdpEngine
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.lars import make_sgd
from gmml_cluster.train.engines.slices import saved_shapes
from gmml_cluster.train.engines.zero import ZeroEngine, import_deepspeed_ahead


def import_ahead(zero: Zero, device: torch.device) -> None:
    """Import what the engine of this `engine.zero` needs beside torch, while the caller waits for others."""
    if zero != "ddp":
        import_deepspeed_ahead(device)


def make_engine(
    module: nn.Module, *, engine: EngineSpec, optim: Optim, device: torch.device, multipliers: Multipliers = unscaled
) -> Engine:
    """The engine of a job whose `engine.zero` is chosen, over a module that it takes over.

    A collective: all ranks make it together.

    `engine.activation_checkpointing` is read by the method and `engine.deterministic` by the attempt.
    """
    module.to(device)
    if engine.precision == "bf16":
        # inside the module: DeepSpeed switches off an autocast that it meets around its forward
        module.forward = torch.autocast(device.type, dtype=torch.bfloat16)(module.forward)
    if engine.compile:
        compile_blocks(module)
    shapes = saved_shapes(module)  # before stage 3 empties the parameters
    optimizer = (make_sgd if optim.name == "lars" else make_adamw)(module, optim, multipliers)
    zero = engine.chosen_zero
    if zero == "ddp":
        return DdpEngine(module, optimizer, shapes=shapes, clip=optim.clip)
    return ZeroEngine(module, optimizer, stage=zero, shapes=shapes, clip=optim.clip, device=device)
