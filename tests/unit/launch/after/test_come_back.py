"""Which runs `gmml resume --all` brings back."""

import pytest
from click.testing import CliRunner

from gmml_cluster import api
from gmml_cluster.cli.resume import command
from gmml_cluster.errors import PreflightError, StorageError
from gmml_cluster.launch.after import come_back
from gmml_cluster.launch.after.come_back import interrupted
from gmml_cluster.launch.runs.status import Statuses
from gmml_cluster.launch.submit import Submitted
from gmml_cluster.run.root import create_run
from tests.fixtures.outputs import checked

STATES = {
    "dead": {"state": "interrupted"},
    "second": {"state": "interrupted"},
    "broken": {"state": "failed"},
    "alive": {"state": "running"},
    "done": {"state": "finished"},
    "halted": {"state": "stopped"},
    "copy": {"state": "interrupted", "misplaced": "is a copy"},
    "theirs": {"state": "interrupted", "launcher": "slurm"},
}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs in the states above, and one that cannot be read."""
    made = {name: create_run(str(tmp_path), name, {}, {}) for name in STATES}
    documents = [
        {"run": name, "url": run.url, "launcher": "local", "misplaced": None, **STATES[name]}
        for name, run in made.items()
    ]
    found = Statuses(documents, [StorageError("unreadable: damaged")])
    monkeypatch.setattr(come_back, "statuses", lambda asked: found)
    return made


def test_this_machines_interrupted_runs_come_back_and_failed_ones_and_copies_are_named(runs):
    found = interrupted(list(runs.values()))
    assert [run.name for run in found.runs] == ["dead", "second"]
    assert [note.split(":")[0] for note in found.notes] == ["broken", "copy"]
    assert "gmml resume broken" in found.notes[0]
    assert len(found.faults) == 1


def test_a_run_that_cannot_be_resumed_keeps_no_other_from_it(runs, monkeypatch, tmp_path):
    def resume(self):
        if self.name == "dead":
            raise PreflightError([])
        return api.Run(self.location, Submitted(self.location, "resumed", "job-1", {}))

    monkeypatch.setattr(api.Run, "resume", resume)
    done = CliRunner().invoke(command, ["--all", "--json", "--root", str(tmp_path)], standalone_mode=False)
    found = checked("submit", done.stdout)
    assert [each.get("run") or each["error"] for each in found] == ["second", "StorageError", "PreflightError"]
    assert done.return_value == StorageError.exit_code  # of the one that cannot be read, which was met first
    assert "gmml resume broken" in done.stderr


@pytest.mark.parametrize("words", [[], ["one", "--all"], ["--all", "--code"], ["--all", "--cluster", "x"]])
def test_one_run_or_all_and_all_as_they_were_submitted(words):
    assert CliRunner().invoke(command, words).exit_code == 2
