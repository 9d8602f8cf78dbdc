"""`engine.zero: auto` takes what the memory of the GPUs allows, plain DDP first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.plan.engine_choice import memory_of_job, needed_bytes, with_engine_chosen, with_zero
from gmml_cluster.plan.memory import memory_of_rank
from gmml_cluster.plan.shares import counts_of
from tests.unit.plan.test_plan import job

LARS = {"name": "lars", "lr": 0.1, "weight_decay": {"start": 0, "end": 0}, "clip": None}
RANKS = st.integers(1, 16)
JOBS = st.builds(
    lambda compile, optim, micro, size: job(
        engine={"zero": "auto", "compile": compile},
        optim=optim,
        batch={"size": 128, "micro": micro},
        model={"width": size, "depth": 2},
    ),
    st.booleans(),
    st.sampled_from([{}, LARS]),
    st.sampled_from(["auto", 8, 64]),
    st.sampled_from([64, 256]),
)


def chosen(asked, ranks, device_bytes):
    return with_engine_chosen(asked, ranks, device_bytes).engine.chosen_zero


def images_of(asked, ranks):
    """The smallest micro-batch: a group of 8, or what is written as far as a rank has so many."""
    return 8 if asked.batch.micro == "auto" else min(asked.batch.micro, -(-16 // ranks) * 8)


@given(JOBS, RANKS, st.sampled_from(["ddp", 1, 2]), st.integers(-1, 1))
def test_no_engine_before_the_chosen_one_fits_and_the_chosen_one_does_if_any(asked, ranks, edge, beyond):
    order = ["ddp", 1, 2] if asked.engine.compile else ["ddp", 1, 2, 3]
    needs = {zero: memory_of_job(with_zero(asked, zero), ranks, images_of(asked, ranks)).needed_bytes for zero in order}
    device_bytes = needs[edge] + beyond
    zero = chosen(asked, ranks, device_bytes)
    fits = [needs[each] <= device_bytes for each in order]
    if any(fits):
        assert fits.index(True) == order.index(zero)
    else:
        assert needs[zero] == min(needs.values())


@given(JOBS, RANKS, st.lists(st.floats(0.0, 4.0), min_size=2, max_size=6))
def test_more_memory_never_takes_a_later_engine(asked, ranks, scales):
    needed = needed_bytes(asked, ranks)
    rooms = sorted([*(int(scale * needed["ddp"]) for scale in scales), *needed.values(), min(needed.values()) - 1])
    places = [list(needed).index(chosen(asked, ranks, room)) for room in rooms]
    assert places == sorted(places, reverse=True)
    assert places[-1] == 0


def test_without_known_memory_it_is_plain_ddp():
    assert chosen(job(engine={"zero": "auto"}), 8, None) == "ddp"


@pytest.mark.parametrize("zero", ["ddp", 0, 1, 2, 3])
def test_an_engine_that_is_named_stays_whatever_fits(zero):
    named = job(engine={"zero": zero})
    assert [with_engine_chosen(named, 8, room) for room in (None, 1, 2**50)] == [named] * 3


def test_all_but_the_engine_of_the_job_stays():
    asked = job(engine={"zero": "auto", "precision": "bf16", "deterministic": True})
    found = with_engine_chosen(asked, 8, 1)
    assert with_zero(found, 1) == job(engine={"zero": 1, "precision": "bf16", "deterministic": True})


def test_scores_between_two_steps_count():
    plain = job(engine={"zero": "auto"})
    scored = job(engine={"zero": "auto"}, evaluate={"every": "1 epoch"})
    room = needed_bytes(plain, 8)["ddp"]
    assert chosen(plain, 8, room) == "ddp"
    assert chosen(scored, 8, room) != "ddp"


def test_what_is_computed_by_an_engine_that_is_not_chosen_yet_is_an_error():
    asked = job(engine={"zero": "auto"})
    with pytest.raises(ValueError, match="must have been chosen"):
        memory_of_rank(counts_of(asked), asked.engine, ranks=2, images=8)
