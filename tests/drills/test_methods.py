"""Every method resumes to the bit on two ranks in every engine: by `make drills`, as it takes minutes."""

from pathlib import Path

import pytest

from gmml_cluster.spec.methods.plugins import BUILT_IN
from tests.fixtures.map_resumes import METHODS, assert_maps_exact, resume_with_maps
from tests.fixtures.ranks import run_ranks
from tests.fixtures.resumes import JOBS, MASKED, assert_exact, resume
from tests.unit.data.masks import masked_shards

ENGINES = ("ddp", 0, 1, 2, 3)


def test_no_method_is_left_out() -> None:
    assert {given["method"]["name"] for given in JOBS.values()} >= set(BUILT_IN)


@pytest.mark.parametrize("name", JOBS)
def test_a_method_resumes_to_the_bit_on_two_ranks_in_every_engine(name: str, digits: Path, tmp_path: Path) -> None:
    corpus = masked_shards(tmp_path / "masks", 160) if name in MASKED else digits / "train"
    assert_exact(run_ranks(2, resume, str(corpus), [name], ENGINES), "ddp")


@pytest.mark.parametrize("name", METHODS)
def test_a_method_that_masks_by_attention_resumes_to_the_bit_on_two_ranks_in_every_engine(
    name: str, digits: Path, tmp_path: Path
) -> None:
    given = f"{digits}/train", str(tmp_path), [name]
    (alone,) = run_ranks(1, resume_with_maps, *given, ["ddp"])
    found = run_ranks(2, resume_with_maps, *given, ENGINES, timeout_s=600)
    assert_maps_exact(found, "ddp", {name: alone[name, "ddp"].losses})
