"""How often a run starts again by itself, and which nodes it avoids, by its log."""

import pytest

from gmml_cluster.run import protocol
from gmml_cluster.run.ends import consequences
from gmml_cluster.run.ends.budgets import counted, is_worth_a_try, pause_s, spent
from gmml_cluster.run.ends.causes import COUNTED, FREE, OUTSIDE
from gmml_cluster.run.fold import fold
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Draft, Log
from tests.unit.run.memory import MemoryStore

INSIDE = [cause for cause in COUNTED if cause not in OUTSIDE]


@pytest.fixture
def log():
    log = Log(MemoryStore())
    log.append(lambda history: Draft("open", None, {}, run="r"))
    submit(log)
    return log


def submit(log, **retries):
    return protocol.submit(log, launcher="slurm", code="c", bounds={"retries": retries} if retries else {})


def attempt(log, cause="", *, commit=None, **details):
    history = log.refresh()
    fields = {"submit": history.submitted, "job": "1", "restart": history.last_attempt}
    number = protocol.claim(log, **fields, topology={}, machine={}).attempt
    protocol.begin(log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    if commit is not None:
        protocol.commit(log, number, step=commit, manifest="m", size=1, seconds=1.0)
    if cause:
        protocol.end(log, number, cause, **details)
    return number


def drawn(log):
    return consequences.draw(log, log.refresh().submitted)


@pytest.mark.parametrize("cause", INSIDE)
def test_three_counted_attempts_without_a_new_checkpoint_stop_the_run_with_the_reason(log, cause):
    for _ in range(2):
        attempt(log, cause)
        assert drawn(log).stopped is None
    attempt(log, cause)
    stopped = drawn(log)
    assert stopped.stopped == f"no new checkpoint in 3 attempts (3 x {cause}); retries.failures is 3"
    assert stopped.gave_up
    assert protocol.refusal(stopped, stopped.submitted, "1", 3) == f"the run was stopped: {stopped.stopped}"


@pytest.mark.parametrize("cause", OUTSIDE)
def test_what_is_proved_to_be_outside_of_the_run_is_tried_twenty_times(log, cause):
    for _ in range(19):
        attempt(log, cause)
    assert drawn(log).stopped is None
    attempt(log, cause)
    assert drawn(log).stopped == f"no new checkpoint in 20 attempts (20 x {cause}); retries.outages is 20"


def test_causes_are_counted_together_within_their_budget(log):
    for cause in ("storage", "killed", "node_lost", "hang"):
        attempt(log, cause)
    assert counted(drawn(log)) == ["storage", "killed", "node_lost", "hang"]
    attempt(log, "hardware")
    assert drawn(log).stopped == (
        "no new checkpoint in 3 attempts (1 x killed, 1 x hang, 1 x hardware); retries.failures is 3"
    )


@pytest.mark.parametrize("cause", FREE)
def test_what_a_scheduler_takes_away_counts_for_nothing(log, cause):
    for _ in range(40):
        attempt(log, cause)
    assert counted(drawn(log)) == []


def test_a_checkpoint_sets_the_count_to_zero(log):
    for step in range(10):
        attempt(log, "killed", commit=step)
        attempt(log, "killed")
        assert drawn(log).stopped is None


def test_a_start_that_failed_before_its_claim_counts_like_an_attempt(log):
    protocol.start_failed(log, log.refresh().submitted, job="1", restart=0)
    attempt(log, "killed")
    assert drawn(log).stopped is None
    protocol.start_failed(log, log.refresh().submitted, job="1", restart=2)
    assert drawn(log).stopped == "no new checkpoint in 3 attempts (1 x killed, 2 x start_failed); retries.failures is 3"


def test_a_person_s_submit_lifts_the_stop_and_counts_anew(log):
    for _ in range(3):
        attempt(log, "killed")
    assert drawn(log).gave_up
    submit(log)
    again = drawn(log)
    assert (again.stopped, again.gave_up, counted(again)) == (None, False, [])


def test_the_job_s_own_budget_holds(log):
    submit(log, failures=1, outages=2, errors=3, longest_pause_s=15.0)
    attempt(log, "storage")
    assert drawn(log).stopped is None
    attempt(log, "hang")
    assert drawn(log).stopped == "no new checkpoint in 1 attempt (1 x hang); retries.failures is 1"


def test_the_next_attempt_stops_a_run_that_its_scheduler_started_again_without_asking(log):
    for _ in range(3):
        attempt(log)  # each ends the one before as lost
    attempt(log)
    assert drawn(log).gave_up


def test_nothing_is_drawn_for_a_replaced_submit_or_a_second_time(log):
    old = log.refresh().submitted
    for _ in range(3):
        attempt(log, "killed")
    slots = consequences.draw(log, "another").slots
    assert consequences.draw(log, old).slots == slots + 1
    assert consequences.draw(log, old).slots == slots + 1


@pytest.mark.parametrize(
    ("errors", "again"),
    [
        ([("error", "a")], True),
        ([("error", "a"), ("error", "b")], False),
        ([("error", "a"), ("error", "a")], False),
        ([("out_of_memory", "a")], True),
        ([("out_of_memory", "a"), ("out_of_memory", "b")], False),
        ([("not_finite", "a")], False),
    ],
)
def test_an_error_after_some_steps_is_tried_once_more(log, errors, again):
    for cause, message in errors:
        attempt(log, cause, message=message, step=3)
    history = log.refresh()
    assert is_worth_a_try(history, history.attempts[-1]) is again


def test_more_errors_are_tolerated_where_the_job_says_so_but_never_the_same_twice(log):
    submit(log, errors=3)
    for message in ("a", "b"):
        attempt(log, "error", message=message, step=3)
        history = log.refresh()
        assert is_worth_a_try(history, history.attempts[-1])
    attempt(log, "error", message="a", step=3)
    history = log.refresh()
    assert not is_worth_a_try(history, history.attempts[-1])


def test_an_error_before_the_first_step_would_come_again(log):
    attempt(log, "error", message="a")
    history = log.refresh()
    assert not is_worth_a_try(history, history.attempts[-1])


def test_a_node_that_was_to_blame_twice_is_avoided_from_then_on(log):
    attempt(log, "hang", node="n1", commit=1)
    attempt(log, "killed", node="n2", commit=2)
    assert drawn(log).excluded == {}
    attempt(log, "killed", node="n1", commit=3)
    assert drawn(log).excluded == {"n1": "attempt 1 ended with hang and attempt 3 ended with killed"}
    submit(log)
    assert list(drawn(log).excluded) == ["n1"]


def test_a_node_whose_hardware_failed_is_avoided_at_once(log):
    attempt(log, "hardware", node="n1")
    assert drawn(log).excluded == {"n1": "attempt 1 ended with hardware"}


def test_a_submit_that_takes_all_nodes_again_forgets_what_was_before_it(log):
    for _ in range(2):
        attempt(log, "hang", node="n1")
    assert list(drawn(log).excluded) == ["n1"]
    protocol.submit(log, launcher="slurm", code="c", bounds={"all_nodes": True})
    attempt(log, "hang", node="n1")
    assert drawn(log).excluded == {}
    attempt(log, "hang", node="n1")
    assert list(drawn(log).excluded) == ["n1"]


@pytest.mark.parametrize("cause", ["error", "out_of_memory", "not_finite", "preempted", "storage"])
def test_no_node_is_to_blame_for_what_the_code_the_scheduler_or_a_store_did(log, cause):
    for step in range(4):
        attempt(log, cause, node="n1", commit=step)
    assert drawn(log).excluded == {}


def test_the_node_that_a_later_proof_names_is_to_blame(log):
    for _ in range(2):
        protocol.resolve_cause(log, attempt(log, "lost"), "killed", "n3: Killed", node="n3")
    assert list(drawn(log).excluded) == ["n3"]


def test_the_fold_of_the_whole_log_is_the_one_that_readers_take_from_its_last_sum(log):
    for _ in range(3):
        attempt(log, "killed", node="n1")
        drawn(log)
    folded = History()
    for entry in log.read():
        folded = fold(folded, entry)
    assert folded == log.refresh() == Log(log.store).refresh()
    assert spent(folded) is not None


def test_the_first_try_is_at_once_and_the_pause_before_later_ones_doubles_up_to_the_longest():
    assert [pause_s(tries, 600.0) for tries in range(10)] == [0, 0, 10, 20, 40, 80, 160, 320, 600, 600]
    assert [pause_s(tries, 15.0) for tries in range(4)] == [0, 0, 10, 15]
