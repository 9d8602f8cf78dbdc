"""From a job to its method with initial weights."""

from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.auxiliary import with_relations
from gmml_cluster.methods.init import initial_weights
from gmml_cluster.methods.protocol import Method, Setting
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.plugins import BUILT_IN, METHODS, claims


def build(job: JobSpec, *, drawn: bool = True) -> Method:
    """The method of a job, its weights a function of the job's seed; float32 on the CPU.

    torch's generator is not touched.

    Args:
        job: what is trained.
        drawn: otherwise the weights are whatever lies in their memory, for a caller that loads every one of them:
            drawing those of a ViT-L takes 10 s of a core.

    Raises:
        SpecError: the setting does not fit together, or nothing installed has the method.
    """
    method = blank(Setting.of(job))
    weights = initial_weights(method, job.seed) if drawn else _undrawn(method)
    method.module.load_state_dict(weights, assign=True)
    return method


def _undrawn(method: Method) -> dict[str, Tensor]:
    return {name: torch.empty(tensor.shape, device="cpu") for name, tensor in method.module.named_parameters()}


def blank(setting: Setting) -> Method:
    """A method whose weights are on torch's meta device: shapes and draws without memory."""
    with torch.device("meta"):
        method: Method = _builder(setting.options.name)(setting)
        return method if setting.auxiliary is None else with_relations(method, setting, setting.auxiliary)


def _builder(name: str) -> Any:
    if name in BUILT_IN:
        return import_module(BUILT_IN[name]).build
    offered = claims(METHODS)
    if name not in offered:
        known = ", ".join(sorted({*BUILT_IN, *offered}))
        problem = f"{name!r}; nothing installed has it; known are {known}"
        raise SpecError(Fault("method.name", problem, "install the package that has it where the ranks run"))
    return offered[name].load()
