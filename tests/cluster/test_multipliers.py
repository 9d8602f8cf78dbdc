"""Every engine honours the learning rates and decays that a method gives its parameters."""

from typing import Any

import torch

from tests.fixtures.engines import ENGINES, joined, make, make_module, state_of, train
from tests.fixtures.ranks import run_ranks


def rates(name: str) -> tuple[float, float]:
    """Frozen, slower and as scheduled, and one that decays twice as much."""
    if name.startswith("embed."):
        return 0.0, 1.0
    if name.startswith("blocks.0."):
        return 0.25, 1.0
    return (1.0, 2.0) if name == "head.weight" else (1.0, 1.0)


def states(rank: int, ranks: int) -> dict[Any, Any]:
    found = {}
    for zero in ENGINES:
        engine = make(zero, multipliers=rates)
        for step in range(2):
            train(engine, step, rank, ranks)
        found[zero] = state_of(engine)
    return found


def test_engines_agree_on_parameters_with_rates_of_their_own() -> None:
    of_ranks = run_ranks(2, states)
    whole = {zero: joined([of_rank[zero] for of_rank in of_ranks]) for zero in ENGINES}
    before = dict(make_module().named_parameters())
    for zero, state in whole.items():
        assert state.keys() == whole["ddp"].keys()
        for at, value in state.items():
            torch.testing.assert_close(value, whole["ddp"][at], rtol=1e-5, atol=1e-7, msg=f"{zero} {at}")
    ddp = whole["ddp"]
    moved = {name: float((ddp[name, "value"] - before[name].detach().flatten()).abs().max()) for name in before}
    assert moved["embed.weight"] == 0
    assert 0 < moved["blocks.0.mlp.0.weight"] < 0.6 * moved["blocks.1.mlp.0.weight"]
