"""Which tensors are decayed, and what an update does with that."""

import pytest
import torch
from torch import nn

from gmml_cluster.spec.job import Optim
from gmml_cluster.train.engines.adamw import is_decayed, make_adamw, parameter_groups, set_rates


@pytest.mark.parametrize(
    ("name", "dims", "vectors", "positions"),
    [
        ("encoder.blocks.0.attn.qkv.weight", 2, True, True),
        ("head.convTrans.weight", 4, True, True),
        ("encoder.norm.weight", 1, False, False),
        ("encoder.blocks.0.mlp.fc1.bias", 1, False, False),
        ("odd.bias", 2, False, False),
        ("encoder.pos_embed", 3, True, False),
        ("encoder.cls_token", 3, True, False),
        ("decoder.mask_token", 3, True, False),
    ],
)
def test_what_is_decayed(name: str, dims: int, vectors: bool, positions: bool) -> None:
    assert is_decayed(name, dims, "vectors") is vectors
    assert is_decayed(name, dims, "vectors_and_positions") is positions


def test_nothing_is_exempt_where_a_method_decides() -> None:
    assert all(is_decayed(name, 1, "none") for name in ("encoder.norm.weight", "odd.bias"))


def test_groups_hold_each_trained_tensor_once_and_no_frozen_one() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[2].weight.requires_grad_(False)
    groups = parameter_groups(module, "vectors")
    assert [group["decay_scale"] for group in groups] == [1, 0]
    held = [id(tensor) for group in groups for tensor in group["params"]]
    assert sorted(held) == sorted(id(tensor) for tensor in module.parameters() if tensor.requires_grad)


def test_a_module_without_exempt_tensors_has_one_group() -> None:
    groups = parameter_groups(nn.Linear(3, 4, bias=False), "vectors")
    assert [group["decay_scale"] for group in groups] == [1]


def test_an_update_decays_by_learning_rate_times_decay_and_spares_the_exempt() -> None:
    module = nn.Linear(3, 4)
    before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
    adamw = make_adamw(module, Optim())
    for tensor in module.parameters():
        tensor.grad = torch.zeros_like(tensor)
    set_rates(adamw, 0.1, 0.5)
    adamw.step()
    torch.testing.assert_close(module.weight.detach(), before["weight"] * 0.95)
    assert torch.equal(module.bias.detach(), before["bias"])


def test_groups_are_of_equal_multipliers_and_scale_both_rates() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    groups = parameter_groups(module, "vectors", lambda name: (0.5, 2.0) if name.startswith("0.") else (1.0, 1.0))
    assert [(g["lr_scale"], g["decay_scale"], len(g["params"])) for g in groups] == [
        (0.5, 2, 1),
        (1, 1, 1),
        (0.5, 0, 1),
        (1, 0, 1),
    ]
    adamw = make_adamw(module, Optim(), lambda name: (0.5, 2.0) if name.startswith("0.") else (1.0, 1.0))
    set_rates(adamw, 0.1, 0.3)
    assert [(g["lr"], g["weight_decay"]) for g in adamw.param_groups] == [(0.05, 0.6), (0.1, 0.3), (0.05, 0), (0.1, 0)]
