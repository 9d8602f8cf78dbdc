"""Teachers: tensors that follow others, one by one or together."""

import pytest
import torch

from gmml_cluster.train.engines.ema import lerp_each, lerp_together


def tensors(seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) for shape in ((3, 5), (7,), ())]


@pytest.mark.parametrize("move", [lerp_each, lerp_together])
@pytest.mark.parametrize("weight", [0.004, 0.5, 0.996])
def test_targets_move_by_the_weight_towards_their_sources(move, weight):
    targets, sources = tensors(0), tensors(1)
    exact = [t.double() + weight * (s.double() - t.double()) for t, s in zip(targets, sources, strict=True)]
    move(targets, sources, torch.tensor(weight))
    for found, expected in zip(targets, exact, strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=3e-7, atol=3e-7)


@pytest.mark.parametrize("move", [lerp_each, lerp_together])
def test_a_weight_of_0_keeps_every_bit(move):
    targets = [*tensors(0), torch.tensor([-3.0, 1e-45])]
    before = [each.clone() for each in targets]
    move(targets, [*tensors(1), torch.tensor([3.0, 1e38])], torch.tensor(0.0))
    assert all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for a, b in zip(targets, before, strict=True))
