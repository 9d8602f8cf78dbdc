"""DeepSpeed's ZeRO stages 0 to 3 behind the engine's seam.

Measured with 0.19.8: its own clipping, norms, overflow checks and timers wait for the device or clip another way, so
they are off, and ours act at the entry of its optimizer's step, where gradients are reduced at every stage.
"""

import contextlib
import os
import sys
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW

from gmml_cluster.errors import GmmlError
from gmml_cluster.plan.memory import bucket_values
from gmml_cluster.spec.job import Clip
from gmml_cluster.train.engines.adamw import set_rates
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.partitions import Partitioned, Partitioning, Replicated, Sharded

MEASURED = "0.19.8"

_PARTITIONED = (
    "averaged_gradients",
    "optimizer",
    "partition_size",
    "single_partition_of_fp32_groups",
    "update_lp_params",
)
_SHARDED = (
    "_get_norm_groups",
    "_partition_all_parameters",
    "_reassign_or_swap_out_partitioned_parameters",
    "averaged_gradients",
    "fp16_groups",
    "fp32_partitioned_groups_flat",
    "get_param_id",
    "grad_position",
    "optimizer",
    "persistent_parameters",
)


def configuration(stage: int, *, host_bound: bool, trained: int) -> dict[str, Any]:
    """DeepSpeed's configuration.

    Args:
        stage: 0 to 3.
        host_bound: whether Python is what a step waits for, as on CPU: then gradients are not copied into one buffer,
            and stage 3 keeps no small tensors gathered, for each is gathered by a call of its own.
        trained: values that are trained; the buffer that gradients are copied into holds half of them.
    """
    zero: dict[str, Any] = {"stage": stage, "memory_efficient_linear": False}
    if host_bound:
        zero |= {"contiguous_gradients": False, "stage3_param_persistence_threshold": 0}
    else:
        zero["reduce_bucket_size"] = bucket_values(trained)
    if stage in (1, 2):
        zero |= {"overlap_comm": False, "compute_grad_norm": False}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": 0.0,
        "zero_optimization": zero,
        "timers": {"throughput": {"enabled": False}},
    }


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        os.environ["DS_ACCELERATOR"] = "cpu"
    # where DeepSpeed looks up its device, which is not the rank's where a task sees its own GPU alone
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    try:
        import deepspeed
    except ImportError as error:
        raise GmmlError("engine.zero: deepspeed is not installed; pip install 'gmml-cluster[train]'") from error
    if deepspeed.__version__.partition("+")[0] != MEASURED:
        what = f"deepspeed: version {deepspeed.__version__}; its internals are used as measured in {MEASURED}"
        raise GmmlError(f"{what}; pip install deepspeed=={MEASURED}, or set engine.zero to ddp")
    # else a C++ operator that only inference uses is compiled on every CPU machine
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _start(module: nn.Module, adamw: AdamW, stage: int, device: torch.device) -> Any:
    """DeepSpeed's engine. What it prints goes to standard error, for standard output is ours."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    with contextlib.redirect_stdout(sys.stderr):
        deepspeed = _import_deepspeed(device)
        deepspeed.init_distributed(torch.distributed.get_backend(), auto_mpi_discovery=False, verbose=False)
        trained = sum(tensor.numel() for tensor in module.parameters() if tensor.requires_grad)
        config = configuration(stage, host_bound=device.type == "cpu", trained=trained)
        return deepspeed.initialize(model=module, optimizer=adamw, config=config)[0]


def _require(thing: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        what = f"deepspeed: {type(thing).__name__} has no {', '.join(missing)}"
        raise GmmlError(f"{what}; the engine needs them as in {MEASURED}; pip install deepspeed=={MEASURED}")


def _require_adamw(found: Any, adamw: AdamW) -> None:
    if found is not adamw:
        what = f"deepspeed: the optimizer became {type(found).__name__}; the engine steps the AdamW it was given"
        raise GmmlError(f"{what}; pip install deepspeed=={MEASURED}")


def _quieten_stage_3(zero: Any, device: torch.device) -> None:
    """Stage 3 computes a norm and asks the host whether it is finite, with no option to leave it out."""
    from deepspeed.runtime.zero import stage3

    _require(stage3, ("is_invalid_grad_norm",))
    stage3.is_invalid_grad_norm = lambda _: False
    nothing = [torch.zeros((), dtype=torch.float64, device=device)]
    zero._get_norm_groups = lambda: nothing


def _lay_out(module: nn.Module, adamw: AdamW, zero: Any, stage: int) -> Partitioning:
    if stage == 0:
        _require_adamw(zero, adamw)
        return Replicated(module, adamw)
    _require(zero, _PARTITIONED if stage < 3 else _SHARDED)
    _require_adamw(zero.optimizer, adamw)
    return (Partitioned if stage < 3 else Sharded)(module, adamw, zero)


class ZeroEngine(Engine):
    """A stage of ZeRO: 1 shares out AdamW's state and master weights, 2 gradients too, 3 the weights themselves."""

    def __init__(
        self,
        module: nn.Module,
        adamw: AdamW,
        *,
        stage: int,
        shapes: dict[str, tuple[int, ...]],
        clip: Clip | None,
        device: torch.device,
    ) -> None:
        self._deepspeed = _start(module, adamw, stage, device)
        zero = self._deepspeed.optimizer
        super().__init__(module, adamw, _lay_out(module, adamw, zero, stage), shapes=shapes, clip=clip)
        if stage == 3:
            _quieten_stage_3(zero, device)
        self._extras = self._vector = torch.empty(0, dtype=torch.float64, device=device)
        self._enter_at(zero)

    def _enter_at(self, zero: Any) -> None:
        """Put the seam before the optimizer's step: DeepSpeed calls it once an update, after its reduction."""
        update = zero.step

        def step(*args: Any, **kwargs: Any) -> Any:
            self._vector = self._seam(self._layout.gradients(), self._extras)
            return update(*args, **kwargs)

        zero.step = step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._deepspeed(*args, **kwargs)

    def backward(self, loss: Tensor, last: bool) -> None:
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float, weight_decay: float, extras: Tensor) -> Tensor:
        set_rates(self._adamw, lr, weight_decay)
        self._extras = extras
        self._deepspeed.step()
        return self._vector
