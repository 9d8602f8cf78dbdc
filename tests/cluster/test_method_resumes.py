"""GMML, ConMIM and AMT on two ranks at stages of ZeRO; `make drills` does so with every method in every engine."""

from pathlib import Path

import pytest

from tests.fixtures.map_resumes import assert_maps_exact, resume_with_maps
from tests.fixtures.ranks import run_ranks
from tests.fixtures.resumes import assert_exact, resume


@pytest.mark.parametrize("name", ["gmml", "conmim"])
def test_a_method_resumes_to_the_bit_on_two_ranks_at_stages_1_and_3(name: str, digits: Path) -> None:
    assert_exact(run_ranks(2, resume, f"{digits}/train", [name], [1, 3]), 1)


def test_amt_resumes_to_the_bit_on_two_ranks_at_stages_1_and_3(digits: Path, tmp_path: Path) -> None:
    found = run_ranks(2, resume_with_maps, f"{digits}/train", str(tmp_path), ["mae"], [1, 3])
    assert_maps_exact(found, 1, {})
