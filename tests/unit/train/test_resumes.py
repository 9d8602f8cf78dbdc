"""Methods that no other file of this folder resumes do so to the bit as well, in one process."""

from tests.fixtures.ranks import run_ranks
from tests.fixtures.resumes import assert_exact, resume

NAMES = ("gmml",)


def test_a_method_resumes_to_the_bit(digits_corpus: str) -> None:
    assert_exact(run_ranks(1, resume, digits_corpus, NAMES, ["ddp"]), "ddp")
