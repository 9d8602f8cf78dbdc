"""Memory of a rank, and what of it fits a device."""

from dataclasses import asdict

import pytest

from gmml_cluster.plan.evaluation import scoring_bytes
from gmml_cluster.plan.memory import MARGIN, fitting_micro_batch, memory_of_rank, moments_of
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.spec.job import Model, Optim
from gmml_cluster.spec.methods.encoder_kind import EncoderKind
from gmml_cluster.spec.methods.gmml import GmmlOptions
from tests.unit.plan.test_plan import job

GIB = 2**30


def state(size, zero, ranks):
    counts = GmmlOptions(name="gmml").counts(Model(size=size), 224)
    memory = memory_of_rank(counts, EngineSpec(zero=zero), ranks=ranks, images=0)
    assert memory.activations_bytes == 0
    return (memory.parameters_bytes + memory.gradients_bytes + memory.optimizer_bytes) / GIB


@pytest.mark.parametrize(
    ("size", "stage_0", "stage_1", "stage_2", "stage_3", "stage_2_of_64"),
    [
        ("tiny", 0.086, 0.048, 0.030, 0.011, 0.023),
        ("small", 0.334, 0.188, 0.115, 0.042, 0.087),
        ("base", 1.314, 0.739, 0.452, 0.164, 0.344),
        ("large", 4.578, 2.575, 1.574, 0.572, 1.198),
        ("huge", 9.484, 5.335, 3.260, 1.185, 2.482),
    ],
)
def test_states_are_shared_out_as_the_stages_of_zero_do(size, stage_0, stage_1, stage_2, stage_3, stage_2_of_64):
    expected = [stage_0, stage_1, stage_2, stage_3]
    assert [state(size, zero, 8) for zero in (0, 1, 2, 3)] == pytest.approx(expected, abs=0.0006)
    assert state(size, 2, 64) == pytest.approx(stage_2_of_64, abs=0.0006)


def test_ddp_shares_nothing_and_one_rank_has_nothing_to_share():
    assert state("small", "ddp", 8) == state("small", 0, 8)
    assert len({state("small", zero, 1) for zero in (0, 1, 2, 3, "ddp")}) == 1


@pytest.mark.parametrize(("zero", "expected"), [("ddp", 0), (0, 4), (1, 2.5), (2, 2.5), (3, 2)])
def test_deepspeed_flattens_gradients_at_stage_0_copies_weights_at_1_and_2_and_buffers_half_at_the_rest(zero, expected):
    counts = GmmlOptions(name="gmml").counts(Model(size="tiny"), 224)
    memory = memory_of_rank(counts, EngineSpec(zero=zero), ranks=8, images=0)
    assert memory.buffers_bytes / counts.trained == pytest.approx(expected, abs=1e-5)


def test_activations_grow_with_the_images_of_a_micro_batch_alone():
    counts = GmmlOptions(name="gmml").counts(Model(size="base"), 224)
    one, many = (memory_of_rank(counts, EngineSpec(), ranks=4, images=images) for images in (1, 64))
    assert many.activations_bytes == 64 * one.activations_bytes > 0
    assert (many.parameters_bytes, many.optimizer_bytes) == (one.parameters_bytes, one.optimizer_bytes)


def test_the_example_of_vit_base_under_autocast():
    counts = GmmlOptions(name="gmml").counts(Model(size="base"), 224)
    memory = memory_of_rank(counts, EngineSpec(zero="ddp", precision="bf16"), ranks=1, images=64)
    assert memory.total_bytes / GIB == pytest.approx(9.9, abs=0.6)


def test_checkpointing_trades_memory_for_arithmetic():
    counts = GmmlOptions(name="gmml").counts(Model(size="large"), 224)
    plain, saving = (
        memory_of_rank(counts, EngineSpec(activation_checkpointing=on), ranks=1, images=8) for on in (False, True)
    )
    assert saving.activations_bytes < plain.activations_bytes / 3


def test_the_parts_add_up():
    counts = GmmlOptions(name="gmml").counts(Model(size="tiny"), 224)
    document = asdict(memory_of_rank(counts, EngineSpec(), ranks=2, images=8))
    assert document.pop("total_bytes") == sum(document.values())


def test_the_flat_copy_of_stage_0_ends_at_what_deepspeed_flattens_at_once():
    counts = GmmlOptions(name="gmml").counts(Model(size="huge"), 224)
    assert counts.trained > 5 * 10**8
    assert memory_of_rank(counts, EngineSpec(zero=0), ranks=8, images=0).buffers_bytes == 4 * 5 * 10**8


@pytest.mark.parametrize("gib", [4, 8, 16, 24, 40, 80, 141])
def test_the_largest_micro_batch_that_fits_is_taken_in_even_parts(gib):
    counts, engine = GmmlOptions(name="gmml").counts(Model(size="large"), 224), EngineSpec(precision="bf16")
    fit = {"ranks": 8, "group": 8, "share": 256, "device_bytes": gib * GIB}
    images = fitting_micro_batch(counts, engine, **fit)
    parts = -(-256 // images)
    smaller = memory_of_rank(counts, engine, ranks=8, images=8).needed_bytes > gib * GIB
    assert images % 8 == 0
    assert images == 8 if smaller else memory_of_rank(counts, engine, ranks=8, images=images).needed_bytes <= gib * GIB
    if parts > 1 and not smaller:  # one part less would not fit
        fewer = -(-(256 // 8) // (parts - 1)) * 8
        assert MARGIN * memory_of_rank(counts, engine, ranks=8, images=fewer).total_bytes > gib * GIB
    assert fitting_micro_batch(counts, engine, **{**fit, "device_bytes": None}) == 256


def test_lars_keeps_one_value_a_parameter_where_adamw_keeps_two():
    counts = GmmlOptions(name="gmml").counts(Model(size="base"), 224)
    optims = [Optim(lr=0.1, name=name) for name in ("adamw", "lars")]
    adamw, lars = (memory_of_rank(counts, EngineSpec(), ranks=4, images=1, moments=moments_of(each)) for each in optims)
    assert lars.optimizer_bytes * 2 == adamw.optimizer_bytes
    assert adamw.total_bytes - lars.total_bytes == lars.optimizer_bytes


def test_scores_between_steps_need_a_copy_of_the_encoder_beyond_the_room_of_the_activations():
    without, scored = job(), job(evaluate={"every": "1 epoch", "corpus": "held-out"})
    needed = scoring_bytes(scored)
    encoder = 4 * EncoderKind().parameters(scored.model, 64)
    assert scoring_bytes(without) == 0
    assert encoder < needed < encoder + 128 * 65 * 64 * 4 * 20
    counts = counts_of(scored)
    few, many = (memory_of_rank(counts, EngineSpec(), ranks=1, images=n, scoring_bytes=needed) for n in (1, 4096))
    assert few.activations_bytes + few.evaluation_bytes == needed
    assert many.evaluation_bytes == 0
