"""The error of a start that failed, as SLURM and the ranks leave it."""

from pathlib import Path

import pytest

from gmml_cluster.launch.slurm.logs import StartLogs, start_line

BROKEN_RANK = """\
srun: error: n2: task 1: Exited with exit code 79
srun: Terminating StepId=17.0
slurmstepd: error: *** STEP 17.0 ON n1 CANCELLED AT 2026-01-01T00:00:00 ***
srun: error: n1: task 0: {how}
"""
TOLD_TO_LEAVE = "2026-01-01 00:00:00,000 INFO a signal gives notice\n"


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    (tmp_path / "17_1_log.err").write_text("Traceback:\n  File x\nImportError: libcudart.so\n\n")
    return tmp_path / "17_0_log.err"


def tail(errors: Path, *, seen: int = 0) -> str:
    return StartLogs(errors, seen=seen).tail()


@pytest.mark.parametrize("how", ["Exited with exit code 77", "Killed", "Terminated"])
def test_the_rank_that_failed_first_is_quoted_and_not_one_that_was_killed_for_it(errors: Path, how: str) -> None:
    errors.write_text(TOLD_TO_LEAVE + BROKEN_RANK.format(how=how))
    assert tail(errors) == f"{errors.with_name('17_1_log.err')} ends with 'ImportError: libcudart.so'"


def test_a_rank_killed_before_the_one_that_failed_was_noticed_is_not_quoted(errors: Path) -> None:
    lines = BROKEN_RANK.format(how="Killed").splitlines(keepends=True)
    errors.write_text(TOLD_TO_LEAVE + "".join(reversed(lines)))
    assert "ImportError: libcudart.so" in tail(errors)


def test_ranks_that_srun_names_together_are_all_looked_at(errors: Path) -> None:
    errors.write_text("srun: error: n1: tasks 2-3,1: Exited with exit code 1\n")
    assert [task.rank for task in StartLogs(errors, seen=0).exits] == [2, 3, 1]
    assert "ImportError: libcudart.so" in tail(errors)


def test_an_exception_is_quoted_and_not_what_a_library_prints_after_it(errors: Path) -> None:
    errors.write_text("RuntimeError: no such device\nframe #1: 0x1234\nsrun: error: n1: task 0: Aborted\n")
    assert tail(errors).endswith("ends with 'RuntimeError: no such device'")


def test_what_an_earlier_start_wrote_is_not_quoted(errors: Path) -> None:
    errors.write_text(BROKEN_RANK.format(how="Killed") + "slurm.setup: module load cuda: exited with 1\n")
    assert tail(errors, seen=4) == f"{errors} ends with 'slurm.setup: module load cuda: exited with 1'"
    assert tail(errors, seen=5) == ""


def test_what_another_rank_wrote_in_an_earlier_start_is_not_quoted(errors: Path) -> None:
    with errors.with_name("17_1_log.err").open("a") as file:
        file.write(f"{start_line('17', '1', '1')}\nlost its peer\n")
    errors.write_text(BROKEN_RANK.format(how="Killed"))
    assert tail(errors).endswith("ends with 'lost its peer'")


def test_where_no_file_is_there_nothing_is_said(tmp_path: Path) -> None:
    assert tail(tmp_path / "17_0_log.err") == ""


@pytest.mark.parametrize(
    ("how", "line", "is_hardware", "nodes"),
    [
        ("Exited with exit code 1", "torch.AcceleratorError: CUDA error: uncorrectable ECC error", True, ("n2",)),
        ("Exited with exit code 1", "RuntimeError: CUDA error: unspecified launch failure", True, ("n2",)),
        ("Aborted (core dumped)", "[rank1]: ProcessGroupNCCL's watchdog got stuck", True, ()),
        ("Exited with exit code 1", "[rank1]: ProcessGroupNCCL's watchdog got stuck", False, ()),
        ("Exited with exit code 1", "RuntimeError: CUDA error: an illegal memory access", False, ()),
    ],
)
def test_a_broken_device_is_distinguished_from_a_broken_program(
    errors: Path, how: str, line: str, is_hardware: bool, nodes: tuple[str, ...]
) -> None:
    errors.write_text(f"srun: error: n2: task 1: {how}\n")
    errors.with_name("17_1_log.err").write_text(f"{start_line('17', '0', '1')}\n{line}\n")
    logs = StartLogs(errors, seen=0)
    assert bool(logs.hardware) is is_hardware
    assert logs.bad_nodes == nodes
