import json
import sys
from pathlib import Path

import pytest

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import RunFailed
from gmml_cluster.evaluate.demo import __main__ as demo

SCORES = {
    "scores": [
        {"score": "knn", "main": False, "accuracy": 9.0, "error": 1.0},
        {"score": "knn", "main": True, "accuracy": 41.5, "error": 2.2, "k": 20, "samples": 500},
        {"score": "linear", "main": True, "accuracy": 80.5, "error": 1.7, "lr": 1.0, "samples": 500},
    ]
}
GOOD = {demo.GMML: {"knn": (81.4, 1.7), "linear": (90.8, 1.3)}, demo.MAE: {"knn": (93.0, 1.1), "linear": (94.6, 1.0)}}
UNTRAINED = {
    demo.GMML: {"knn": (45.0, 2.2), "linear": (85.8, 1.6)},
    demo.MAE: {"knn": (64.0, 2.1), "linear": (89.0, 1.4)},
}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a command that lies beside the interpreter, as an installed one does."""
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
    with pytest.raises(RunFailed, match="gmml-submit exited with 3"):
        demo.command("gmml-submit", "job.yaml")


def test_the_accuracies_are_the_scores_to_report(program):
    program("gmml", f"echo '{json.dumps(SCORES)}'")
    found = demo.accuracies("quickstart", "runs", Path("test"), "taps", "--untrained")
    assert found == {"knn": (41.5, 2.2), "linear": (80.5, 1.7)}


@pytest.mark.parametrize("gain", demo.GAINS, ids=lambda gain: f"{gain.run}-{gain.score}")
@pytest.mark.parametrize("short", [0.1, 60.0])
def test_too_small_a_gain_of_any_score_fails(gain, short):
    after = UNTRAINED[gain.run][gain.score][0] + gain.least - short
    results = {**GOOD, gain.run: {**GOOD[gain.run], gain.score: (after, 1.0)}}
    with pytest.raises(RunFailed, match=f"{gain.score} of {gain.run} rose by .*; at least {gain.least:.0f} are"):
        demo._check_gains(UNTRAINED, results)


def test_the_measured_gains_pass():
    demo._check_gains(UNTRAINED, GOOD)


def test_untrained_and_raw_pixel_figures_are_beside_each_score():
    pixels, seconds = {"knn": (97.8, 0.7), "linear": (96.8, 0.8)}, {demo.GMML: 79.0, demo.MAE: 46.0}
    cells = [list(column.cells) for column in demo._table(pixels, UNTRAINED, GOOD, seconds).columns]
    assert list(zip(*cells, strict=True))[2][1:] == ("knn", "64.0 ± 2.1", "93.0 ± 1.1", "97.8 ± 0.7")


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
