"""LARS against its formula in float64, on one rank."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gmml_cluster.spec.job import Optim, WeightDecay
from tests.fixtures.engines import gathered, group_losses, make, make_module, samples

LARS = Optim(name="lars", clip=None, weight_decay=WeightDecay(start=0, end=0))


@pytest.fixture
def alone() -> Any:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def by_hand(rates: list[float]) -> dict[str, np.ndarray]:
    """Weights after some steps: momentum of scaled gradients, then the learning rate."""
    module = make_module().double()
    speed: dict[str, Any] = {}
    for step, lr in enumerate(rates):
        module.zero_grad()
        group_losses(module(samples(step).double())).mean().backward()
        for name, w in module.named_parameters():
            if w.grad is None:
                continue
            ratio = 0.001 * w.detach().norm() / w.grad.norm() if w.ndim > 1 else 1.0
            speed[name] = 0.9 * speed.get(name, 0.0) + ratio * w.grad
            w.data -= lr * speed[name]
    return {name: w.detach().numpy() for name, w in module.named_parameters()}


def test_three_updates_are_those_of_the_formula(alone: Any) -> None:
    engine, rates = make("ddp", optim=LARS), [0.05, 0.2, 0.1]
    start = {name: w.detach().flatten().numpy().copy() for name, w in make_module().named_parameters()}
    for step, lr in enumerate(rates):
        engine.backward(group_losses(engine.forward(samples(step))).mean(), last=True)
        vector = engine.step(lr, 0.0, torch.ones(2, dtype=torch.float64))
        assert len(vector) == len(engine.names) + 2
    state, expected = gathered(engine), by_hand(rates)
    for name in engine.names:
        # what float32 rounds away is a share of how far the tensor moved, not of a single weight that ends near zero
        moved = np.abs(expected[name].flatten() - start[name]).max()
        error = np.abs(state[name, "value"].numpy() - expected[name].flatten()).max()
        assert error <= 1e-5 * moved + 1e-7, name
    assert {key for _, key in state} == {"value", "momentum_buffer"}


def test_a_tensor_of_zeros_moves_by_its_plain_gradient(alone: Any) -> None:
    """A head that begins at zero would never move by a share of its norm."""
    module = make_module()
    name = next(name for name, w in module.named_parameters() if w.requires_grad and w.ndim > 1)
    module.get_parameter(name).data.zero_()
    engine = make("ddp", module, optim=LARS)
    engine.backward(group_losses(engine.forward(samples(0))).mean(), last=True)
    gradient = module.get_parameter(name).grad
    assert gradient is not None
    gradient = gradient.clone()
    engine.step(0.5, 0.0, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(module.get_parameter(name).detach(), -0.5 * gradient)


def test_an_update_that_is_not_finite_changes_nothing(alone: Any) -> None:
    engine = make("ddp", optim=LARS)
    images = samples(0)
    engine.backward(group_losses(engine.forward(images)).mean(), last=True)
    engine.step(0.5, 0.0, torch.ones(1, dtype=torch.float64))
    before = gathered(engine)
    images[0, 0, 0] = float("nan")
    engine.backward(group_losses(engine.forward(images)).mean(), last=True)
    engine.step(0.5, 0.0, torch.ones(1, dtype=torch.float64))
    assert all(torch.equal(value, before[at]) for at, value in gathered(engine).items())
