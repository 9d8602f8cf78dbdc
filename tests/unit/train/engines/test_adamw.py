"""Schedules against the golden values of METHODS 0.8, and which tensors are decayed."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from gmml_cluster.spec.job import Optim, ScheduleSpec
from gmml_cluster.train.engines.adamw import (
    Schedule,
    fractional_law,
    is_decayed,
    learning_rate,
    make_adamw,
    parameter_groups,
    peak_learning_rate,
    set_rates,
    steps_law,
    weight_decay,
)

EPOCH, EPOCHS, WARMUP = 5004, 801, 10
TOTAL = EPOCH * EPOCHS
GMML = {"batch": 256, "warmup_steps": EPOCH * WARMUP, "total_steps": TOTAL}


@pytest.mark.parametrize(
    ("step", "expected", "relative"),
    [
        (1, 9.99221e-9, 1e-6),
        (50_039, 5e-4, 0),
        (50_040, 5e-4, 0),
        (2_001_600, 2.559497e-4, 1e-6),
        (4_008_203, 1.00000000008e-6, 2e-12),
    ],
)
def test_learning_rate_has_gmmls_golden_values(step: int, expected: float, relative: float) -> None:
    assert learning_rate(Optim(), step, **GMML) == pytest.approx(expected, rel=relative, abs=0)


def test_the_very_first_learning_rate_of_gmml_is_zero() -> None:
    assert learning_rate(Optim(), 0, **GMML) == 0.0


@pytest.mark.parametrize(
    ("step", "expected", "relative"),
    [(0, 0.04, 1e-15), (2_001_600, 0.21964701, 2e-8), (TOTAL - 1, 0.39999999999994, 2e-14)],
)
def test_weight_decay_rises_to_gmmls_golden_values(step: int, expected: float, relative: float) -> None:
    assert weight_decay(Optim(), step, total_steps=TOTAL) == pytest.approx(expected, rel=relative, abs=0)


def test_a_weight_decay_with_equal_ends_is_constant() -> None:
    optim = Optim.model_validate({"weight_decay": {"start": 0.05, "end": 0.05}})
    assert {weight_decay(optim, step, total_steps=97) for step in range(97)} == {0.05}


@pytest.mark.parametrize(("epoch", "expected"), [(0, 0.0), (20, 1.2e-3), (40, 2.4e-3), (420, 1.2e-3), (800, 0.0)])
def test_the_fractional_law_has_maes_values_by_epoch(epoch: int, expected: float) -> None:
    optim = Optim(lr=1.5e-4, schedule=ScheduleSpec(law="fractional", final_lr=0.0))
    lengths = {"batch": 4096, "warmup_steps": 40 * 312, "total_steps": 800 * 312}
    assert learning_rate(optim, epoch * 312, **lengths) == pytest.approx(expected, rel=1e-12, abs=1e-15 * 2.4e-3)


def test_only_the_law_of_steps_reaches_its_peak_on_the_last_step_of_warm_up() -> None:
    lengths = {"base": 1.0, "final": 0.0, "warmup_steps": 5, "total_steps": 50}
    assert [steps_law(step, **lengths) for step in (0, 4, 5)] == [0.0, 1.0, 1.0]
    assert [fractional_law(step, **lengths) for step in (0, 4, 5)] == [0.0, 0.8, 1.0]


@given(
    st.sampled_from([steps_law, fractional_law]),
    st.integers(0, 40),
    st.integers(1, 200),
    st.floats(1e-6, 1.0),
    st.floats(0.0, 1e-6),
)
def test_the_learning_rate_rises_then_falls_and_stays_at_its_end(
    law: object, warmup: int, total: int, base: float, final: float
) -> None:
    lengths = {"base": base, "final": final, "warmup_steps": warmup, "total_steps": total}
    values = [law(step, **lengths) for step in range(max(total, warmup) + 3)]  # type: ignore[operator]
    rising, falling = values[:warmup], values[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert max(values) <= base * (1 + 1e-12)
    assert values[-1] == final


def test_the_learning_rate_is_scaled_to_the_batch_unless_it_is_absolute() -> None:
    assert peak_learning_rate(Optim(lr=5e-4), 1024) == 2e-3
    assert peak_learning_rate(Optim(lr=5e-4, lr_per=None), 1024) == 5e-4


def test_a_course_takes_warm_up_in_epochs_and_its_length_from_the_schedule_where_it_has_one() -> None:
    tied = Schedule.of(Optim(), batch=256, run_steps=TOTAL, epoch_steps=EPOCH)
    assert (tied.warmup_steps, tied.total_steps) == (50_040, TOTAL)
    assert tied.learning_rate(2_001_600) == learning_rate(Optim(), 2_001_600, **GMML)
    free = Schedule.of(Optim(schedule=ScheduleSpec(samples=1000)), batch=256, run_steps=9, epoch_steps=EPOCH)
    assert free.total_steps == math.ceil(1000 / 256)


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


def test_groups_hold_each_trained_tensor_once_and_no_frozen_one() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    module[2].weight.requires_grad_(False)
    groups = parameter_groups(module, "vectors")
    assert [group["decayed"] for group in groups] == [True, False]
    held = [id(tensor) for group in groups for tensor in group["params"]]
    assert sorted(held) == sorted(id(tensor) for tensor in module.parameters() if tensor.requires_grad)


def test_a_module_without_exempt_tensors_has_one_group() -> None:
    groups = parameter_groups(nn.Linear(3, 4, bias=False), "vectors")
    assert [group["decayed"] for group in groups] == [True]


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
