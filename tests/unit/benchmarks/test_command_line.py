"""How often the commands that are measured ask a scheduler, and what they print. No second is asserted."""

import pytest

from benchmarks import command_line
from benchmarks.command_line import _SUBMIT, Command, called, calls_of, commands, row_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    command_line.prepared(folder, 20)
    return folder


def test_a_listing_of_many_runs_asks_the_scheduler_once(folder):
    few, many = (each for each in commands(folder, 20) if each.words[:1] == ("status",))
    for command in (few, many):
        assert [call.partition(" ")[0] for call in calls_of(command, folder)] == ["squeue"]
    assert called(many, folder).count("run-") >= 20


def test_a_dry_run_for_slurm_asks_no_scheduler_and_no_object_store(folder):
    """The store's address is one where nothing listens, so that a request would fail."""
    command = next(each for each in commands(folder, 20) if "S3" in each.name)
    assert calls_of(command, folder) == []
    assert "not listed, as `samples` is given" in called(command, folder)


def test_a_submission_asks_sbatch_for_its_judgement_once_and_hands_the_job_over_once(folder):
    command = Command("submit", _SUBMIT, ("job.yaml", "--cluster", "slurm.yaml"), 1.0)
    calls = [call for call in calls_of(command, folder) if call.startswith("sbatch")]
    assert ["--test-only" in call for call in calls] == [True, False]


def test_a_row_has_the_figure_and_its_ratio_to_the_goal(folder):
    row = row_of(commands(folder, 20)[0], [0.1, 0.2, 0.7])
    assert (row.figure, row.over, row.value) == ("gmml --help", "its goal, 0.35 s", 0.2)
    assert (round(row.ratio.median, 2), row.reached) == (0.57, True)
