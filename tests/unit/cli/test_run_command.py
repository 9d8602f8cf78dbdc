"""How commands end."""

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from gmml_cluster.cli import options, run_command
from gmml_cluster.cli.main import group
from gmml_cluster.errors import DataError, Fault, LaunchError, PreflightError, RunFailed, SpecError, StorageError
from tests.fixtures.outputs import checked


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


def test_a_command_that_ends_well_exits_with_zero_and_one_that_counts_with_its_number(monkeypatch):
    assert outcome(monkeypatch, lambda: None) == 0
    assert outcome(monkeypatch, lambda: 7) == 7


def test_every_fault_is_a_line_of_its_own_on_stderr(monkeypatch, capsys):
    faults = [Fault("job.yaml:3", "a: wrong"), Fault("job.yaml:9", "b: wrong too")]
    outcome(monkeypatch, fails_with(SpecError(faults)))
    assert capsys.readouterr() == ("", "job.yaml:3: a: wrong\njob.yaml:9: b: wrong too\n")


def with_json(monkeypatch, capsys, action):
    """Exit code, the documents on stdout, and stderr."""

    @click.command()
    @options.as_json
    def command(as_json):
        return action()

    monkeypatch.setattr("sys.argv", ["gmml", "--json"])
    with pytest.raises(SystemExit) as left:
        run_command.run(command)
    out, err = capsys.readouterr()
    return left.value.code, checked("error", out), err


def test_with_json_the_faults_are_a_document_on_stdout_too(monkeypatch, capsys):
    faults = [Fault("job.yaml:3", "a: wrong", "write 1"), Fault("job.yaml:9", "b: wrong too")]
    code, (found,), err = with_json(monkeypatch, capsys, fails_with(PreflightError(faults)))
    assert (code, found["error"], found["exit_code"]) == (3, "PreflightError", 3)
    assert found["faults"] == [
        {"where": "job.yaml:3", "problem": "a: wrong", "hint": "write 1"},
        {"where": "job.yaml:9", "problem": "b: wrong too", "hint": ""},
    ]
    assert err == "job.yaml:3: a: wrong; write 1\njob.yaml:9: b: wrong too\n"


def test_an_error_of_text_alone_is_a_document_too(monkeypatch, capsys):
    code, (found,), _ = with_json(monkeypatch, capsys, fails_with(LaunchError("sbatch: refused")))
    assert (code, found["faults"]) == (4, [{"where": "", "problem": "sbatch: refused", "hint": ""}])


def test_a_command_that_ends_well_prints_no_document_of_an_error(monkeypatch, capsys):
    assert with_json(monkeypatch, capsys, lambda: 1) == (1, [], "")


def test_arguments_that_cannot_be_parsed_are_a_document_too(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["gmml", "log", "--json"])
    with pytest.raises(SystemExit) as left:
        run_command.run(group)
    (found,) = checked("error", capsys.readouterr().out)
    assert (left.value.code, found["error"], found["exit_code"]) == (2, "UsageError", 2)
    assert found["faults"] == [
        {"where": "gmml log", "problem": "Missing argument 'RUN'.", "hint": "gmml log --help lists its arguments"}
    ]


def test_an_interrupted_command_says_so(monkeypatch, capsys):
    code, (found,), _ = with_json(monkeypatch, capsys, fails_with(KeyboardInterrupt()))
    assert (code, found["error"], found["exit_code"]) == (130, "Interrupted", 130)


def test_an_unknown_option_is_a_fault_of_the_arguments(monkeypatch):
    assert outcome(monkeypatch, lambda: None, "--no-such") == 2


def test_a_reader_that_has_left_is_no_failure():
    script = "from gmml_cluster.cli import run_command; import click\n@click.command()\ndef c():\n"
    script += "    [click.echo('x' * 1000) for _ in range(1000)]\nrun_command.run(c)"
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline()
    process.stdout.close()
    assert (process.wait(timeout=240), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("arguments", [["-h"], ["status", "-h"], ["corpus", "pack", "-h"]])
def test_every_command_has_a_short_help(arguments):
    # in a process of its own: click keeps a command's help option as it was when the command was first called, which
    # another test may have done without its group
    script = "import sys; from gmml_cluster.cli.main import group; group(sys.argv[1:])"
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage:" in done.stdout


def test_a_near_miss_of_a_command_is_suggested():
    done = CliRunner().invoke(group, ["statsu"])
    assert (done.exit_code, "did you mean 'status'?" in done.output) == (2, True)
