"""Every engine trains the head of a probe and keeps the bits of its encoder."""

import itertools
from typing import Any

import torch

from gmml_cluster.methods.build import build
from tests.fixtures.engines import ENGINES, joined, make, state_of
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import digits_job
from tests.unit.train.test_classes import PROBES


def a_step_of_every_engine(rank: int, ranks: int) -> dict[Any, Any]:
    found = {}
    for name, zero in itertools.product(PROBES, ENGINES):
        spec = digits_job("none", PROBES[name], steps=2, init={"run": "other"})
        method = build(spec)
        engine = make(zero, method.module)
        images = torch.randn(8, 1, 3, 16, 16, generator=torch.Generator().manual_seed(1))[rank * 4 : rank * 4 + 4]
        for _ in range(2):
            losses = method.loss(engine.forward, images, {"label": torch.arange(4) + rank})
            engine.backward(losses.groups.sum(), last=True)
            engine.step(1e-3, 0.0, torch.zeros(1, dtype=torch.float64))
        found[name, zero] = state_of(engine)
    return found


def test_every_engine_freezes_the_encoder_of_a_probe() -> None:
    of_ranks = run_ranks(2, a_step_of_every_engine)
    for name, zero in itertools.product(PROBES, ENGINES):
        state, plain = (joined([of_rank[name, each] for of_rank in of_ranks]) for each in (zero, "ddp"))
        before = build(digits_job("none", PROBES[name], steps=2, init={"run": "other"})).module.state_dict()
        assert state.keys() == plain.keys()
        for (tensor, key), value in state.items():
            if tensor.startswith("encoder."):
                assert torch.equal(value, before[tensor].flatten()), (name, zero, tensor)
            torch.testing.assert_close(value, plain[tensor, key], rtol=1e-4, atol=1e-6)
