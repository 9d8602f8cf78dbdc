"""The rule of restarts as a table: what the log allows and what is left of the nodes, against what is done."""

import pytest

from gmml_cluster.launch.after.verdict import Allocation, Verdict, action
from gmml_cluster.run.ends.causes import CAUSES, COUNTED, FREE

TWO, THREE = ("n1", "n2"), ("n1", "n2", "n3")


def allocation(sound: tuple[str, ...] = TWO, *, held: bool = True, least: int = 2) -> Allocation:
    return Allocation(held, sound, tuple(node for node in THREE if node not in sound), least)


@pytest.mark.parametrize("cause", COUNTED)
@pytest.mark.parametrize(
    ("left", "done"),
    [
        (allocation(), "here"),
        (allocation(THREE), "here"),
        (allocation(TWO, least=3), "requeue"),
        (allocation(TWO, least=1), "here"),
        (allocation(("n3",), least=2), "requeue"),
        (allocation((), least=1), "requeue"),
        (allocation(held=False), "requeue"),
        (allocation(THREE, held=False), "requeue"),
    ],
)
def test_what_broke_is_tried_again_on_the_nodes_that_are_left_if_they_are_enough(
    cause: str, left: Allocation, done: str
) -> None:
    assert action(Verdict(again=True, cause=cause), left) == done


@pytest.mark.parametrize("cause", FREE)
def test_nodes_that_the_scheduler_wants_back_are_given_back(cause: str) -> None:
    assert action(Verdict(again=True, cause=cause), allocation()) == "requeue"


@pytest.mark.parametrize("cause", CAUSES)
@pytest.mark.parametrize("held", [True, False])
def test_where_the_log_allows_no_start_nothing_is_done(cause: str, held: bool) -> None:
    assert action(Verdict(again=False, cause=cause), allocation(held=held)) == "nothing"
