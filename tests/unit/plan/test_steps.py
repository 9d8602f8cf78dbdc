"""How many steps a run takes."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.plan.sample_layout import CorpusShape, make_layout
from gmml_cluster.plan.steps import epoch_steps, layout_of, steps_without_corpora, total_steps
from gmml_cluster.spec.job import RunSpec
from gmml_cluster.spec.loading.validate import parse_job


def job(run, group="auto", batch=64):
    return parse_job(
        {
            "name": "x",
            "model": {"width": 64, "depth": 4, "heads": 2, "patch_size": 4},
            "method": {"name": "gmml"},
            "data": {"corpora": [{"url": "x"}], "image_size": 32, "group": group},
            "batch": {"size": batch},
            "run": run,
        }
    )


def layout(*samples, weights=None, batch=64, lanes=4):
    shapes = [
        CorpusShape(weight, (count,)) for count, weight in zip(samples, weights or [1.0] * len(samples), strict=True)
    ]
    return make_layout(seed=0, batch=batch, group=8, lanes=lanes, corpora=shapes)


def test_steps_are_steps_and_samples_round_up():
    assert steps_without_corpora(RunSpec(steps=7), 64) == 7
    assert steps_without_corpora(RunSpec(samples=128), 64) == 2
    assert steps_without_corpora(RunSpec(samples=129), 64) == 3
    assert steps_without_corpora(RunSpec(epochs=1.0), 64) is None


def test_epochs_of_one_corpus_are_its_samples():
    assert total_steps(job({"epochs": 1}), layout(640)) == 10
    assert total_steps(job({"epochs": 1}), layout(641)) == 11
    assert total_steps(job({"epochs": 99}), layout(1297)) == math.ceil(99 * 1297 / 64)


def test_epochs_count_the_first_corpus_at_the_share_that_its_lanes_achieve():
    mixed = layout(6400, 100, weights=[0.6, 0.4])
    assert mixed.lane_counts == (2, 2)
    assert epoch_steps(mixed) == 200.0
    assert total_steps(job({"epochs": 1}), mixed) == 200
    assert total_steps(job({"epochs": 0.5}), layout(100, 6400, weights=[1.0, 3.0])) == math.ceil(0.5 * 100 * 4 / 64)


def test_the_released_run_has_as_many_steps_as_its_epochs_ask():
    whole = layout(1_281_167, batch=256, lanes=32)
    assert total_steps(job({"epochs": 801}, batch=256), whole) == math.ceil(801 * 1_281_167 / 256)


def test_a_decimal_number_of_epochs_is_meant_as_written():
    assert total_steps(job({"epochs": 0.1}), layout(6400)) == 10
    assert total_steps(job({"epochs": 1.1}), layout(6400)) == 110


@given(st.integers(1, 10**7), st.integers(1, 10**4))
def test_whole_epochs_never_fall_short_nor_run_a_step_too_long(samples, epochs):
    steps = total_steps(job({"epochs": float(epochs)}), layout(samples))
    assert 64 * (steps - 1) < epochs * samples <= 64 * steps


@pytest.mark.parametrize(("given", "expected"), [("auto", 8), (4, 4), (16, 16)])
def test_a_group_of_auto_is_the_methods(given, expected):
    assert layout_of(job({"steps": 1}, group=given), [CorpusShape(1.0, (6400,))]).group == expected


def test_steps_of_an_epoch_are_exact_before_they_are_rounded():
    assert epoch_steps(layout(1297)) == float(Fraction(1297, 64))
