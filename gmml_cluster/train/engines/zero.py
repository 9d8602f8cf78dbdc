"""DeepSpeed's ZeRO stages 0 to 3 behind `Engine` (docs/reference/deepspeed.md).

Measured with DeepSpeed 0.19.8. Its own clipping, norms, overflow checks and timers read a value back from the device in
every step, or clip otherwise than a job asks, so they are off. Ours act at the entry of its optimizer's `step`: that is
called once an update, at every stage, when gradients are reduced and the update has not begun.
"""

import contextlib
import os
import sys
import threading
import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from gmml_cluster.errors import Fault, GmmlError
from gmml_cluster.plan.memory import bucket_values
from gmml_cluster.spec.job import Clip
from gmml_cluster.train.engines.adamw import set_rates
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.partitions import Partitioned, Partitioning, Replicated, Sharded
from gmml_cluster.train.engines.uncompiled import stage_3_without_compiler

MEASURED = "0.19.8"

# private attributes in use, by the class of DeepSpeed's optimizer; partitions.py says what each holds
_STAGES_1_AND_2 = (
    "averaged_gradients",
    "optimizer",
    "single_partition_of_fp32_groups",
    "update_lp_params",
)
_STAGE_3 = (
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
    # memory_efficient_linear would replace torch.nn.functional.linear for the whole process at stage 3, with other bits
    zero: dict[str, Any] = {"stage": stage, "memory_efficient_linear": False}
    if host_bound:
        zero |= {"contiguous_gradients": False, "stage3_param_persistence_threshold": 0}
    else:
        zero["reduce_bucket_size"] = bucket_values(trained)
    if stage in (1, 2):
        # the norm's check for inf would wait for the device once a step; stages 0 and 3 refuse the option
        zero |= {"overlap_comm": False, "compute_grad_norm": False}
    return {
        # checked against each other only: micro-batches and their number are ours
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # any number of backwards, then one step; managed, `step` would have to be called after each micro-batch
        "managed_gradient_accumulation": False,
        "zero_allow_untested_optimizer": True,  # SGD, which LARS takes; it updates flat tensors like any other
        "gradient_clipping": 0.0,  # the hook clips, by tensor or over all; DeepSpeed knows the latter alone
        "zero_optimization": zero,
        # the throughput timer synchronises the device twice a step
        "timers": {"throughput": {"enabled": False}},
    }


_ahead: threading.Thread | None = None


def import_deepspeed_ahead(device: torch.device) -> None:
    """Import DeepSpeed in a thread of its own: 450 modules, 0.3 s of a core, more where they lie on a network.

    An error is not reported here: the engine imports again, and raises it.
    """
    global _ahead
    _ahead = threading.Thread(target=_import_quietly, args=(device,), name="import of deepspeed", daemon=True)
    _ahead.start()


def _import_quietly(device: torch.device) -> None:
    with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
        _import_deepspeed(device)


def _import_deepspeed(device: torch.device) -> Any:
    if device.type == "cpu":
        # else it warns, on standard output, that it found no accelerator
        os.environ["DS_ACCELERATOR"] = "cpu"
    # where DeepSpeed looks up its device, which is not the rank's where a task sees its own GPU alone
    os.environ["LOCAL_RANK"] = str(device.index or 0)
    try:
        import deepspeed
    except ImportError as error:
        fault = Fault("engine.zero", "deepspeed is not installed", "pip install 'gmml-cluster[train]'")
        raise GmmlError(fault) from error
    if deepspeed.__version__.partition("+")[0] != MEASURED:
        problem = f"version {deepspeed.__version__}; its internals are used as measured in {MEASURED}"
        raise GmmlError(Fault("deepspeed", problem, f"pip install deepspeed=={MEASURED}, or set engine.zero to ddp"))
    # else init_distributed compiles a C++ operator on every CPU machine, for minutes, which only inference uses
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    _spare_what_is_unused()
    return deepspeed


def _spare_what_is_unused() -> None:
    from deepspeed.accelerator import cuda_accelerator
    from deepspeed.runtime import compiler

    # Its engine imports Muon, which decorates functions with torch.compile, whose search for a default backend imports
    # torch._dynamo and inductor: a second of a core, 2 to 4 s of each start.
    compiler.compile = lambda: lambda function: function
    # Where pynvml can be imported it reads CUDA_VISIBLE_DEVICES as numbers, and fails on UUIDs of GPUs and MIG slices.
    cuda_accelerator.pynvml = None


def _start(module: nn.Module, optimizer: Optimizer, stage: int, device: torch.device) -> Any:
    """DeepSpeed's engine. What it prints goes to standard error: standard output belongs to our commands."""
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    if _ahead is not None:
        _ahead.join()  # it has redirected standard output too
    with contextlib.redirect_stdout(sys.stderr), contextlib.ExitStack() as spared:
        deepspeed = _import_deepspeed(device)
        if stage == 3:
            spared.enter_context(stage_3_without_compiler())
        # it takes over the process group that exists; left to itself it would look for MPI
        deepspeed.init_distributed(dist.get_backend(), auto_mpi_discovery=False, verbose=False)
        trained = sum(tensor.numel() for tensor in module.parameters() if tensor.requires_grad)
        config = configuration(stage, host_bound=device.type == "cpu", trained=trained)
        started = deepspeed.initialize(model=module, optimizer=optimizer, config=config)[0]
    _share_timeout(device)
    return started


def _share_timeout(device: torch.device) -> None:
    """Give every process group the time-out of the default group.

    DeepSpeed clones the world group by `new_group(ranks)`, which takes torch's own default (10 minutes for nccl, 30 for
    gloo) and not that of the group it clones: a slow save on one rank would abort the collectives of the others. Both
    names are private to torch.distributed (2.13); its public calls take a time-out only where a group is made.
    """
    groups = list(dist.distributed_c10d._world.pg_map)
    timeout = _timeout(dist.group.WORLD, device)
    for group in groups:
        dist.distributed_c10d._set_pg_timeout(timeout, group)


def _timeout(group: Any, device: torch.device) -> Any:
    return group._get_backend(torch.device(device.type)).options._timeout


def _require(thing: Any, names: tuple[str, ...]) -> None:
    missing = [name for name in names if not hasattr(thing, name)]
    if missing:
        problem = f"{type(thing).__name__} has no {', '.join(missing)}; the engine reads them as in {MEASURED}"
        raise GmmlError(Fault("deepspeed", problem, f"pip install deepspeed=={MEASURED}"))


def _require_ours(found: Any, optimizer: Optimizer) -> None:
    # a wrapper of its own would read found_inf nowhere, so updates that are not finite would be applied
    if found is not optimizer:
        problem = f"the optimizer became {type(found).__name__}; the engine steps the one it was given"
        raise GmmlError(Fault("deepspeed", problem, f"pip install deepspeed=={MEASURED}"))


def _disable_stage_3_norm(zero: Any, device: torch.device) -> None:
    """Keep stage 3 from computing a norm and asking the host whether it is finite; it has no option to leave it out.

    `is_invalid_grad_norm` is a function of the module (one wait a step: `bool` of a tensor), `_get_norm_groups` a
    method (one scalar all-reduce a sub-group). With the check gone a NaN would be applied; `found_inf` prevents that.
    """
    from deepspeed.runtime.zero import stage3

    _require(stage3, ("is_invalid_grad_norm",))
    stage3.is_invalid_grad_norm = lambda _: False
    nothing = [torch.zeros((), dtype=torch.float64, device=device)]
    zero._get_norm_groups = lambda: nothing


def _partitioning(module: nn.Module, optimizer: Optimizer, zero: Any, stage: int) -> Partitioning:
    if stage == 0:  # in fp32 DeepSpeed then has no optimizer of its own and steps the one it was given
        _require_ours(zero, optimizer)
        return Replicated(module, optimizer)
    _require(zero, _STAGES_1_AND_2 if stage < 3 else _STAGE_3)
    _require_ours(zero.optimizer, optimizer)
    return (Partitioned if stage < 3 else Sharded)(module, optimizer, zero)


class ZeroEngine(Engine):
    """A stage of ZeRO: 1 partitions AdamW's state and master weights, 2 gradients too, 3 the weights themselves."""

    def __init__(
        self,
        module: nn.Module,
        optimizer: Optimizer,
        *,
        stage: int,
        shapes: dict[str, tuple[int, ...]],
        clip: Clip | None,
        device: torch.device,
    ) -> None:
        self._deepspeed = _start(module, optimizer, stage, device)
        zero = self._deepspeed.optimizer
        super().__init__(module, optimizer, _partitioning(module, optimizer, zero, stage), shapes=shapes, clip=clip)
        if stage == 3:
            _disable_stage_3_norm(zero, device)
        self._extras = self._vector = torch.empty(0, dtype=torch.float64, device=device)
        self._insert_hook(zero)

    def _insert_hook(self, zero: Any) -> None:
        """Call the gradient hook at the entry of the optimizer's step.

        DeepSpeed calls that once an update, after its reduction. A hook of AdamW's own `step` would be too late at
        stages 1 and 2, which step it once a parameter group, for norms need all groups.
        """
        update = zero.step  # on the instance: the next engine of this process makes another one

        def step(*args: Any, **kwargs: Any) -> Any:
            self._vector = self._hook(self._partitioning.gradients(), self._extras)
            return update(*args, **kwargs)

        zero.step = step

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._deepspeed(*args, **kwargs)

    def backward(self, loss: Tensor, last: bool) -> None:
        # the loss is scaled by its caller already; DeepSpeed would divide by its own number of micro-batches
        self._deepspeed.backward(loss, scale_wrt_gas=False)

    def step(self, lr: float, weight_decay: float, extras: Tensor) -> Tensor:
        set_rates(self._optimizer, lr, weight_decay)
        self._extras = extras  # by attribute, as DeepSpeed's `step` passes no arguments on to the hook
        self._deepspeed.step()
        return self._vector
