"""What `gmml drill` prints, and its exit code."""

import json

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.main import group
from gmml_cluster.launch import drill
from gmml_cluster.launch.drill import Drilled

CALM = Drilled(None, "tiny-drill-1-calm", "", ["finished"], 0, 12.0)
KILLED = Drilled("kill", "tiny-drill-1-kill", "", ["lost", "finished"], 10, 40.0, 28.0, True)


@pytest.fixture
def asked(monkeypatch):
    """What the command asks for; gives the runs of `asked["found"]`."""
    given = {"found": [CALM, KILLED]}

    def made(job, **options):
        given.update(job=job, **options)
        return iter(given["found"])

    monkeypatch.setattr(drill, "drill", made)
    return given


def called(*arguments):
    return CliRunner().invoke(group, ["drill", *arguments], standalone_mode=False)


def test_a_row_says_what_was_done_what_was_lost_and_whether_losses_are_equal(asked):
    done = called("tiny", "batch.size=8", "--cluster", "here", "--only", "kill")
    assert (done.return_value, asked["job"], asked["cluster"]) == (0, "tiny", "here")
    assert (asked["overrides"], asked["kinds"]) == (("batch.size=8",), ("kill",))
    assert [row.split() for row in done.stdout.splitlines()[1:]] == [
        ["undisturbed", "finished", "0", "-"],
        ["kill", "-9", "of", "a", "rank", "lost,", "finished", "10", "28", "equal"],
    ]


@pytest.mark.parametrize("changed", [{"equal": False}, {"problem": "attempt 3 ended with storage"}])
def test_a_run_that_parts_or_does_not_come_back_is_a_failure(asked, changed):
    asked["found"] = [CALM, Drilled(**{**vars(KILLED), **changed})]
    done = called("tiny")
    assert done.return_value == 1
    assert changed.get("problem", "DIFFER") in done.stdout


def test_json_has_a_document_a_line(asked):
    lines = [json.loads(line) for line in called("tiny", "--json").stdout.splitlines()]
    assert [line["kind"] for line in lines] == [None, "kill"]
    assert lines[1]["lost_s"] == 28.0
