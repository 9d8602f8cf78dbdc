"""A batch that keeps all ranks waiting ends its evaluation."""

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.evaluate.pace import Pace


def pace_of(*batches: float) -> None:
    """An evaluation whose batches take so many seconds."""
    now = [0.0]
    pace = Pace(lambda: now[0])
    for seconds in batches:
        now[0] += seconds
        pace.next()


@pytest.mark.parametrize("batches", [(299,), (2, 99, 2), (0.1, 0.1, 61), (290, 290, 290)])
def test_batches_at_an_ordinary_pace_pass(batches):
    pace_of(*batches)


@pytest.mark.parametrize(
    ("batches", "said"),
    [((301,), "took 301 s, and all ranks"), ((2, 101), "took 101 s, where 2.0 s are usual"), ((1, 1, 3, 81), "81 s")],
)
def test_a_batch_that_takes_too_long_is_an_error(batches, said):
    with pytest.raises(StorageError, match=said):
        pace_of(*batches)
