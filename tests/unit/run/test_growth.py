"""A run takes more nodes at a checkpoint made since there is room, and not otherwise."""

import pytest

from gmml_cluster.run.growth import NO_COMMIT, Growth


def due(looks, nodes=2):
    """What each look says; looks are nodes that it could have and the step of its last checkpoint."""
    growth = Growth(nodes)
    return [growth.is_due(could, lambda commit=commit: commit) for could, commit in looks], growth.proof


@pytest.mark.parametrize(
    ("looks", "said"),
    [
        ([(2, 9), (2, 19)], [False, False]),
        ([(3, 9), (3, 9), (3, 19)], [False, False, True]),
        ([(3, NO_COMMIT), (3, 4)], [False, True]),
        ([(3, 9), (2, 19), (3, 19), (3, 29)], [False, False, False, True]),
        ([(1, 9), (1, 19)], [False, False]),
    ],
)
def test_it_is_due_at_the_first_checkpoint_since_there_is_room(looks, said):
    assert due(looks)[0] == said


def test_the_proof_has_both_numbers():
    assert due([(4, 1), (4, 2)])[1] == "there is room for 4 nodes instead of 2"
    assert due([(2, 1), (2, 2)], nodes=1)[1] == "there is room for 2 nodes instead of 1"


def test_without_room_the_log_is_not_read():
    assert not Growth(2).is_due(2, lambda: pytest.fail("read"))
