"""Every method resumes to the bit on two ranks in every engine: by `make drills`, as it takes minutes."""

from pathlib import Path

import pytest

from gmml_cluster.spec.methods.plugins import BUILT_IN
from tests.fixtures.ranks import run_ranks
from tests.fixtures.resumes import JOBS, assert_exact, resume

ENGINES = ("ddp", 0, 1, 2, 3)


def test_no_method_is_left_out() -> None:
    # the digits have no masks; segmentation resumes on one rank in tests/unit/train/test_segmentation.py
    assert {given["method"]["name"] for given in JOBS.values()} >= set(BUILT_IN) - {"segmentation"}


@pytest.mark.parametrize("name", JOBS)
def test_a_method_resumes_to_the_bit_on_two_ranks_in_every_engine(name: str, digits: Path) -> None:
    assert_exact(run_ranks(2, resume, f"{digits}/train", [name], ENGINES), "ddp")
