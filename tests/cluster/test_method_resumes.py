"""ConMIM, whose teacher and batch norms see whole groups, on two ranks; `make drills` does so with every method."""

from pathlib import Path

from tests.fixtures.ranks import run_ranks
from tests.fixtures.resumes import assert_exact, resume


def test_conmim_resumes_to_the_bit_on_two_ranks_at_stages_1_and_3(digits: Path) -> None:
    assert_exact(run_ranks(2, resume, f"{digits}/train", ["conmim"], [1, 3]), 1)
