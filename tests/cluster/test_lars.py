"""LARS is one optimizer in every engine: its norms are of whole tensors, whatever a rank holds of them."""

from typing import Any

import torch

from gmml_cluster.spec.job import Optim, WeightDecay
from tests.fixtures.engines import ENGINES, joined, make, state_of, train
from tests.fixtures.ranks import run_ranks

LARS = Optim(name="lars", clip=None, weight_decay=WeightDecay(start=0, end=0))


def states(rank: int, ranks: int) -> dict[Any, Any]:
    found = {}
    for zero in ENGINES:
        engine = make(zero, optim=LARS)
        for step in range(3):
            train(engine, step, rank, ranks, lr=1.0)
        found[zero] = state_of(engine)
    return found


def test_engines_agree() -> None:
    of_ranks = run_ranks(2, states)
    whole = {zero: joined([of_rank[zero] for of_rank in of_ranks]) for zero in ENGINES}
    for zero, state in whole.items():
        assert state.keys() == whole["ddp"].keys()
        assert {key for _, key in state} == {"value", "momentum_buffer"}
        for at, value in state.items():
            torch.testing.assert_close(value, whole["ddp"][at], rtol=1e-5, atol=1e-7, msg=f"{zero} {at}")
