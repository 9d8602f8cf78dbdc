"""How often the commands that are measured ask a scheduler, and what they print. No second is asserted."""

import pytest

from benchmarks import command_line
from benchmarks.command_line import _SUBMIT, Row, called, calls_of, line, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("measured")
    command_line.prepared(folder, 20)
    return folder


def test_a_listing_of_many_runs_asks_the_scheduler_once(folder):
    few, many = (row for row in rows(folder, 20) if row.words[:1] == ("status",))
    for row in (few, many):
        assert [call.partition(" ")[0] for call in calls_of(row, folder)] == ["squeue"]
    assert called(many, folder).count("run-") >= 20


def test_a_dry_run_for_slurm_asks_no_scheduler_and_no_object_store(folder):
    """The store's address is one where nothing listens, so that a request would fail."""
    row = next(row for row in rows(folder, 20) if "S3" in row.name)
    assert calls_of(row, folder) == []
    assert "not listed, as `samples` is given" in called(row, folder)


def test_a_submission_asks_sbatch_for_its_judgement_once_and_hands_the_job_over_once(folder):
    row = Row("submit", _SUBMIT, ("job.yaml", "--cluster", "slurm.yaml"), 1.0)
    calls = [call for call in calls_of(row, folder) if call.startswith("sbatch")]
    assert ["--test-only" in call for call in calls] == [True, False]


def test_a_line_has_the_figure_its_goal_and_their_ratio(folder):
    row = rows(folder, 20)[0]
    assert line(row, [0.1, 0.2, 0.7]) == "| gmml --help | 0.20 (0.10 to 0.70) | 0.35 | 0.57 |"
