"""How commands end."""

import click
import pytest

from gmml_cluster.cli import run_command
from gmml_cluster.errors import DataError, Fault, LaunchError, PreflightError, RunFailed, SpecError, StorageError


def outcome(monkeypatch, action, *arguments):
    @click.command()
    def command():
        return action()

    monkeypatch.setattr("sys.argv", ["gmml", *arguments])
    with pytest.raises(SystemExit) as left:
        run_command.run(command)
    return left.value.code


def fails_with(fault):
    def action():
        raise fault

    return action


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (SpecError(Fault("job.yaml:3", "wrong")), 2),
        (PreflightError(Fault("store", "wrong")), 3),
        (LaunchError("sbatch: refused"), 4),
        (StorageError("s3: out of reach"), 4),
        (RunFailed("run: failed"), 5),
        (DataError("shard: damaged"), 3),
        (KeyboardInterrupt(), 130),
    ],
)
def test_each_fault_has_its_exit_code(monkeypatch, fault, code):
    assert outcome(monkeypatch, fails_with(fault)) == code


def test_a_command_that_ends_well_leaves_with_zero_and_one_that_counts_with_its_number(monkeypatch):
    assert outcome(monkeypatch, lambda: None) == 0
    assert outcome(monkeypatch, lambda: 7) == 7


def test_every_fault_is_a_line_of_its_own_on_stderr(monkeypatch, capsys):
    faults = [Fault("job.yaml:3", "a: wrong"), Fault("job.yaml:9", "b: wrong too")]
    outcome(monkeypatch, fails_with(SpecError(faults)))
    assert capsys.readouterr() == ("", "job.yaml:3: a: wrong\njob.yaml:9: b: wrong too\n")


def test_an_unknown_option_is_a_fault_of_the_arguments(monkeypatch):
    assert outcome(monkeypatch, lambda: None, "--no-such") == 2
