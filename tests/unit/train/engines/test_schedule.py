"""Learning rate and weight decay against golden values computed from the released code of GMML and MAE."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.spec.job import Optim, ScheduleSpec
from gmml_cluster.train.engines.schedule import (
    Schedule,
    fractional_schedule,
    learning_rate,
    peak_learning_rate,
    quarter_schedule,
    steps_schedule,
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
def test_the_fractional_schedule_has_maes_values_by_epoch(epoch: int, expected: float) -> None:
    optim = Optim(lr=1.5e-4, schedule=ScheduleSpec(law="fractional", final_lr=0.0))
    lengths = {"batch": 4096, "warmup_steps": 40 * 312, "total_steps": 800 * 312}
    assert learning_rate(optim, epoch * 312, **lengths) == pytest.approx(expected, rel=1e-12, abs=1e-15 * 2.4e-3)


@pytest.mark.parametrize(
    ("step", "expected"), [(50, 2.5e-4), (99, 4.95e-4), (100, 4.938596e-4), (500, 3.539195e-4), (1000, 1.25e-6)]
)
def test_the_quarter_schedule_has_relvits_values(step: int, expected: float) -> None:
    optim = Optim(lr=5e-4, lr_per=None, schedule=ScheduleSpec(law="quarter", final_lr=1.25e-6))
    lengths = {"batch": 256, "warmup_steps": 100, "total_steps": 1000}
    assert learning_rate(optim, step, **lengths) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize(
    ("epoch", "expected"), [(0, 2e-6), (5, 2.01e-4), (10, 4e-4), (400, 4e-4), (699.99, 4e-4), (700, 4e-5), (800, 4e-5)]
)
def test_the_tenth_schedule_has_simmims_values_by_epoch(epoch: float, expected: float) -> None:
    optim = Optim(lr=1e-4, lr_per=512, schedule=ScheduleSpec(law="tenth", start_lr=2e-6))
    lengths = {"batch": 2048, "warmup_steps": 10 * 625, "total_steps": 800 * 625}
    assert learning_rate(optim, int(epoch * 625), **lengths) == pytest.approx(expected, rel=1e-12)


def test_only_steps_reaches_its_peak_on_the_last_step_of_warm_up() -> None:
    lengths = {"base": 1.0, "final": 0.0, "warmup_steps": 5, "total_steps": 50}
    assert [steps_schedule(step, **lengths) for step in (0, 4, 5)] == [0.0, 1.0, 1.0]
    assert [fractional_schedule(step, **lengths) for step in (0, 4, 5)] == [0.0, 0.8, 1.0]


@given(
    st.sampled_from([steps_schedule, fractional_schedule, quarter_schedule]),
    st.integers(0, 40),
    st.integers(1, 200),
    st.floats(1e-6, 1.0),
    st.floats(0.0, 1e-6),
)
def test_the_learning_rate_rises_then_falls_and_stays_at_its_end(
    schedule: object, warmup: int, total: int, base: float, final: float
) -> None:
    lengths = {"base": base, "final": final, "warmup_steps": warmup, "total_steps": total}
    values = [schedule(step, **lengths) for step in range(max(total, warmup) + 3)]  # type: ignore[operator]
    rising, falling = values[:warmup], values[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert max(values) <= base * (1 + 1e-12)
    assert values[-1] == final


def test_the_learning_rate_is_scaled_to_the_batch_unless_it_is_absolute() -> None:
    assert peak_learning_rate(Optim(lr=5e-4), 1024) == 2e-3
    assert peak_learning_rate(Optim(lr=5e-4, lr_per=None), 1024) == 5e-4


def test_a_schedule_takes_warm_up_in_epochs_and_its_length_from_the_schedule_where_it_has_one() -> None:
    tied = Schedule.of(Optim(), batch=256, run_steps=TOTAL, epoch_steps=EPOCH)
    assert (tied.warmup_steps, tied.total_steps) == (50_040, TOTAL)
    assert tied.learning_rate(2_001_600) == learning_rate(Optim(), 2_001_600, **GMML)
    free = Schedule.of(Optim(schedule=ScheduleSpec(samples=1000)), batch=256, run_steps=9, epoch_steps=EPOCH)
    assert free.total_steps == math.ceil(1000 / 256)
