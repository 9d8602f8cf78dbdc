"""Which steps are computed again, from where, and on what."""

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.run.step_range import choose, commits_of, pieces, stretches
from tests.unit.run.memory import MemoryStore


def attempt(log, first, commits=(), ranks=2, code="c", changed=None):
    token = protocol.submit(log, launcher="local", code=code, bounds={}, changed=changed)
    topology = {"ranks": ranks, "micro": "auto"}
    claim = protocol.claim(log, submit=token, job="1", restart=0, topology=topology, machine={"host": token})
    protocol.begin(log, claim.attempt, resumed=None, step=first, micro=8, start_s=0.0, load_s=0.0)
    for step in commits:
        protocol.commit(log, claim.attempt, step=step, manifest=f"m{step}", size=1, seconds=0.0)
    return claim.attempt


@pytest.fixture
def log():
    log = Log(MemoryStore())
    log.append(lambda history: Draft("open", None, {}, run="r"))
    return log


def cut(log, first=None, last=None, known=99):
    """Start, and the pieces as (first, last, ranks, whether tensors are compared)."""
    history = log.refresh()
    steps = choose(history, "run", first=first, last=last, known=known)
    found = pieces(steps, stretches(log.read()), commits_of(history))
    start = None if steps.start is None else steps.start.step
    return start, [(p.first, p.last, p.conditions.topology["ranks"], p.commit is not None) for p in found]


def test_without_options_it_is_the_steps_between_the_last_two_checkpoints(log):
    attempt(log, 0, [9, 19, 29])
    assert cut(log) == (19, [(20, 29, 2, True)])


def test_a_run_with_one_checkpoint_or_none_is_computed_from_its_beginning(log):
    number = attempt(log, 0)
    assert cut(log, known=5) == (None, [(0, 5, 2, False)])
    protocol.commit(log, number, step=9, manifest="m", size=1, seconds=0.0)
    assert cut(log, known=12) == (None, [(0, 9, 2, True)])


def test_a_named_step_is_reached_from_the_checkpoint_before_it_and_on_to_the_next(log):
    attempt(log, 0, [9, 19, 29])
    assert cut(log, first=15) == (9, [(10, 19, 2, True)])
    assert cut(log, first=19) == (9, [(10, 19, 2, True)])
    assert cut(log, first=20) == (19, [(20, 29, 2, True)])
    assert cut(log, first=31) == (29, [(30, 99, 2, False)])
    assert cut(log, last=24) == (19, [(20, 24, 2, False)])
    assert cut(log, first=5, last=25) == (None, [(0, 9, 2, True), (10, 19, 2, True), (20, 25, 2, False)])


def test_over_a_resume_on_other_ranks_each_part_is_computed_on_its_own_ranks(log):
    attempt(log, 0, [9, 19])
    attempt(log, 20, [24], ranks=2)  # as before: no reason to start the ranks anew
    attempt(log, 25, [29], ranks=3)
    log.append(lambda history: Draft("drop", 1, {"step": 9, "of": 1}))
    log.append(lambda history: Draft("drop", 2, {"step": 24, "of": 2}))
    start, found = cut(log, first=0, last=29)
    assert (start, found) == (None, [(0, 19, 2, True), (20, 24, 2, False), (25, 29, 3, True)])


def test_steps_that_were_made_again_count_as_the_later_attempt_made_them(log):
    attempt(log, 0, [9, 19])
    attempt(log, 10, [29], ranks=3)  # the checkpoint of step 19 was damaged
    assert [commit.step for commit in commits_of(log.refresh())] == [9, 29]
    assert [(s.first, s.last, s.conditions.attempt) for s in stretches(log.read())] == [(0, 9, 1), (10, None, 2)]
    assert cut(log) == (9, [(10, 29, 3, True)])


def test_the_micro_batch_is_the_recorded_number_and_changes_and_code_are_those_of_the_submit(log):
    attempt(log, 0, [9], code="old")
    attempt(log, 10, [19], code="new", changed={"engine.zero": [1, 2]})
    old, new = (stretch.conditions for stretch in stretches(log.read()))
    assert (old.topology["micro"], old.code, dict(old.changed)) == (8, "old", {})
    assert (new.code, dict(new.changed)) == ("new", {"engine.zero": [1, 2]})


@pytest.mark.parametrize("asked", [{"first": 100}, {"last": 100}, {"first": 20, "last": 10}, {"known": None}])
def test_steps_that_the_run_has_not_made_are_refused(log, asked):
    attempt(log, 0, [9])
    with pytest.raises(SpecError, match="has made"):
        cut(log, **asked)
