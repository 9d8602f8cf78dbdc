"""The last words of a start that failed, as SLURM and the ranks leave them."""

from pathlib import Path

import pytest

from gmml_cluster.launch.slurm.logs import last_words

BROKEN_RANK = """\
srun: error: n2: task 1: Exited with exit code 79
srun: Terminating StepId=17.0
slurmstepd: error: *** STEP 17.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***
srun: error: n1: task 0: Exited with exit code 77
"""


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    (tmp_path / "17_1_log.err").write_text("Traceback:\n  File x\nImportError: libcudart.so\n\n")
    return tmp_path / "17_0_log.err"


def test_the_rank_that_srun_blames_is_quoted_not_its_peers(errors: Path) -> None:
    errors.write_text("INFO up\n" + BROKEN_RANK)
    blamed = errors.with_name("17_1_log.err")
    assert last_words(errors, seen=0, rc=79) == f"{blamed} ends with 'ImportError: libcudart.so'"


def test_what_an_earlier_start_wrote_is_not_quoted(errors: Path) -> None:
    errors.write_text(BROKEN_RANK + "slurm.setup: module load cuda: left with 1\n")
    assert last_words(errors, seen=4, rc=79) == f"{errors} ends with 'slurm.setup: module load cuda: left with 1'"
    assert last_words(errors, seen=5, rc=79) == ""


def test_where_no_file_is_there_nothing_is_said(tmp_path: Path) -> None:
    assert last_words(tmp_path / "17_0_log.err", seen=0, rc=1) == ""
