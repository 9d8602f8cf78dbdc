"""A start imports nothing that takes seconds and that no step needs."""

import subprocess
import sys

import pytest

STEP = """
import sys
import torch
import torch.distributed as dist
from gmml_cluster.train.engines.build import make_engine
from tests.unit.train.test_loop import job
from gmml_cluster.spec.job import EngineSpec

dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
module = torch.nn.Linear(2, 2)
engine = make_engine(module, engine=EngineSpec(zero={zero}), optim=job().optim, device=torch.device("cpu"))
before = module.weight.detach().clone()
engine.backward(engine.forward(torch.ones(2, 2)).sum(), last=True)
engine.step(0.1, 0.0, torch.zeros(1, dtype=torch.float64))
assert not torch.equal(before, module.weight)
print(sorted({{"torch._dynamo", "torch._inductor"}} & set(sys.modules)))
"""


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_engines_up_to_stage_2_import_neither_dynamo_nor_inductor(zero):
    done = subprocess.run([sys.executable, "-c", STEP.format(zero=zero)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


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
