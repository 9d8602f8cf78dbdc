"""Plain data parallelism, on one rank."""

import warnings

import pytest
import torch
import torch.distributed as dist

from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.build import make_engine
from tests.fixtures.engines import CPU, group_losses, make_module, samples


@pytest.fixture
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def test_buffers_are_broadcast_in_no_forward_and_torch_warns_of_nothing(alone):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine = make_engine(make_module(), engine=EngineSpec(zero="ddp"), optim=Optim(), device=CPU)
        engine.backward(group_losses(engine.forward(samples(0))).mean(), last=True)
        engine.step(1e-3, 0.05, torch.zeros(1))
    assert not engine._ddp.will_sync_module_buffers()
