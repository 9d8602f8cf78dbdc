"""What of a log people hear of."""

from gmml_cluster.run.entries import Entry
from gmml_cluster.run.events import events


def log(*kinds, start=0):
    """Entries from (kind, attempt, fields)."""
    return [
        Entry(slot, kind, attempt, "r", f"t{slot}", float(slot), fields)
        for slot, (kind, attempt, fields) in enumerate(kinds, start)
    ]


SUBMIT = ("submit", None, {})
CLAIM = ("claim", 1, {})
LOST = ("end", 1, {"cause": "killed", "message": "rank 3 got signal SIGKILL"})
FINISHED = ("end", 1, {"cause": "finished", "step": 99})
EXCLUDE = ("exclude", None, {"node": "n7", "reason": "it failed twice"})
GAVE_UP = ("stop", None, {"reason": "killed 3 times without a checkpoint", "gave_up": True})
STOP = ("stop", None, {"reason": "gmml cancel"})


def kinds(*entries, over=False):
    return [(event.kind, event.slot) for event in events(log(*entries), "mine", over=over)]


def test_an_end_that_is_followed_by_another_start_is_no_news():
    assert kinds(SUBMIT, CLAIM, LOST) == []
    assert kinds(SUBMIT, CLAIM, LOST, CLAIM, over=True) == []


def test_an_end_after_which_nothing_starts_is_a_failure_with_its_reason_and_cure():
    (event,) = events(log(SUBMIT, CLAIM, LOST), "mine", over=True)
    assert (event.kind, event.slot, event.attempt) == ("failed", 2, 1)
    assert event.text == (
        "mine has ended and is not started again: killed; rank 3 got signal SIGKILL. `gmml resume mine` continues it."
    )


def test_a_failure_names_the_cause_that_was_found_after_the_end():
    lost = ("end", 1, {"cause": "lost"})
    found = ("cause", None, {"of": 1, "cause": "node_lost", "proof": "sacct says NODE_FAIL"})
    (event,) = events(log(SUBMIT, CLAIM, lost, found), "mine", over=True)
    assert (event.kind, event.slot) == ("failed", 2)
    assert "not started again: node_lost; sacct says NODE_FAIL." in event.text


def test_an_end_with_a_reason_of_its_own_is_said_once():
    assert kinds(SUBMIT, CLAIM, FINISHED, over=True) == [("finished", 2)]
    assert kinds(SUBMIT, CLAIM, LOST, GAVE_UP, over=True) == [("gave_up", 3)]
    assert kinds(SUBMIT, CLAIM, STOP, ("end", 1, {"cause": "cancelled"}), over=True) == [("stopped", 2)]


def test_a_node_that_is_avoided_is_news_while_the_run_goes_on():
    assert kinds(SUBMIT, CLAIM, LOST, EXCLUDE) == [("node_avoided", 3)]


def test_what_came_before_the_latest_submit_is_not_said_any_more():
    assert kinds(SUBMIT, CLAIM, LOST, GAVE_UP, SUBMIT, over=True) == []
    assert kinds(SUBMIT, CLAIM, LOST, GAVE_UP, SUBMIT, CLAIM, FINISHED, over=True) == [("finished", 6)]


def test_a_start_that_failed_before_its_claim_is_a_failure_too():
    failed = ("end", None, {"cause": "start_failed", "message": "no module named torch"})
    (event,) = events(log(SUBMIT, failed), "mine", over=True)
    assert (event.kind, event.attempt) == ("failed", None)
    assert "no module named torch" in event.text
