"""A start imports nothing that takes seconds and that no step needs."""

import subprocess
import sys

import pytest

STEP = """
import os
import sys
import torch
import torch.distributed as dist
import gmml_cluster.train.attempt  # all that a rank imports whatever its job is
from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.build import import_ahead, make_engine

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
device, zero = torch.device("cpu"), {zero!r}
import_ahead(zero, device)
module = torch.nn.Linear(2, 2)
engine = make_engine(module, engine=EngineSpec(zero=zero), optim=Optim(lr=1e-3), device=device)
before = module.weight.detach().clone()
engine.backward(engine.forward(torch.ones(2, 2)).sum(), last=True)
engine.step(0.1, 0.0, torch.zeros(1, dtype=torch.float64))
assert zero == 3 or not torch.equal(before, module.weight)
asked = ["torch._dynamo", "torch._inductor", "deepspeed", "gmml_cluster.evaluate", "rich", "click"]
print([name for name in asked if name in sys.modules], flush=True)
os._exit(0)  # as ranks leave: Python's way out runs destructors of gloo's threads, which may end in an abort
"""


@pytest.mark.parametrize("zero", ["ddp", 0, 1, 2, 3])
def test_up_to_the_first_step_neither_compiler_nor_evaluation_is_imported_and_deepspeed_for_zero_alone(zero):
    done = subprocess.run([sys.executable, "-c", STEP.format(zero=zero)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == ("[]" if zero == "ddp" else "['deepspeed']")


FAILED_AHEAD = """
import os
import sys
sys.modules["deepspeed"] = None
import torch
import torch.distributed as dist
from gmml_cluster.errors import GmmlError
from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.build import import_ahead, make_engine

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
import_ahead(1, torch.device("cpu"))
try:
    make_engine(torch.nn.Linear(2, 2), engine=EngineSpec(zero=1), optim=Optim(lr=1e-3), device=torch.device("cpu"))
except GmmlError as error:
    print(error, flush=True)
os._exit(0)
"""


def test_what_fails_while_it_is_imported_ahead_is_said_by_name_where_the_engine_is_made():
    done = subprocess.run([sys.executable, "-c", FAILED_AHEAD], capture_output=True, text=True)
    assert "deepspeed is not installed" in done.stdout.strip().splitlines()[-1]
    assert "Traceback" not in done.stderr


UUIDS = """
import os, sys, types
import torch
os.environ["CUDA_VISIBLE_DEVICES"] = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
sys.modules["pynvml"] = types.SimpleNamespace(nvmlInit=lambda: None, NVMLError=OSError)
torch.cuda.get_device_properties = lambda device: types.SimpleNamespace(total_memory=9)
torch.cuda.memory_allocated = lambda device: 2
torch.cuda.is_available = lambda: True
torch.cuda.current_device = lambda: 0
from gmml_cluster.train.engines.zero import _import_deepspeed
_import_deepspeed(torch.device("cuda", 0))
from deepspeed.accelerator.cuda_accelerator import CUDA_Accelerator
print(CUDA_Accelerator.available_memory(object.__new__(CUDA_Accelerator), 0))
"""


def test_a_gpu_that_is_named_by_its_uuid_does_not_break_deepspeed():
    done = subprocess.run([sys.executable, "-c", UUIDS], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "7"
