import json
import sys
from pathlib import Path

import pytest

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import RunFailed
from gmml_cluster.evaluate.demo import __main__ as demo

SCORES = {
    "scores": [
        {"main": False, "accuracy": 9.0},
        {"main": True, "accuracy": 41.5, "error": 2.2, "k": 20, "samples": 500},
    ]
}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a command that stands beside the interpreter, as an installed one does."""
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))

    def write(name: str, body: str) -> None:
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)

    return write


def test_commands_are_shown_as_a_user_would_type_them(program, capsys):
    program("gmml", "echo done")
    assert demo.command("gmml", "rm", "my run", capture=True) == "done\n"
    assert "$ gmml rm 'my run'" in capsys.readouterr().out


def test_a_failed_command_ends_the_demo_with_its_code(program):
    program("gmml-submit", "exit 3")
    with pytest.raises(RunFailed, match="gmml-submit left with 3"):
        demo.command("gmml-submit", "job.yaml")


def test_the_accuracy_is_the_score_to_report(program):
    program("gmml", f"echo '{json.dumps(SCORES)}'")
    assert demo.accuracy("runs", Path("test"), "--untrained") == 41.5


@pytest.mark.parametrize("after", [64.9, 39.0])
def test_too_small_a_gain_fails(after):
    with pytest.raises(RunFailed, match="at least 25 are expected"):
        demo._close(40.0, after, Path("out.png"), 80.0)


def test_a_gain_of_25_points_passes_and_names_what_to_do_next(capsys):
    demo._close(40.0, 65.0, Path("out.png"), 80.0)
    said = capsys.readouterr().out
    assert "40.0 % -> 65.0 %" in said
    assert "Next: gmml status quickstart" in said


def test_an_interrupted_packing_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(destination):
        (destination / "train").mkdir(parents=True)
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "pack_digits", fail)
    with pytest.raises(KeyboardInterrupt):
        demo._pack(tmp_path / "demo" / "digits")
    assert list((tmp_path / "demo").iterdir()) == []


def test_digits_packed_by_the_demo_are_readable_where_they_lie(tmp_path):
    pytest.importorskip("sklearn")
    demo._pack(tmp_path / "demo" / "digits")
    samples = Samples(str(tmp_path / "demo" / "digits" / "test"))
    assert len(samples.images(range(20))) == 20
    assert (samples.labels() >= 0).all()
