"""TensorBoard's files are made of the joined metric lines."""

import io

import pytest

from gmml_cluster.cli.tensorboard import main, write
from gmml_cluster.track.protocol import curves
from tests.fixtures.outputs import checked


def read(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.wall_time, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_each_number_of_a_line_is_a_curve_over_steps(tmp_path):
    lines = [{"step": s, "time": 100.0 + s, "attempt": 1, "loss": 0.5 / 2**s, "name": "x"} for s in range(3)]
    assert write(lines, tmp_path) == 3
    assert read(tmp_path) == {"loss": [(0, 100.0, 0.5), (1, 101.0, 0.25), (2, 102.0, 0.125)]}


def test_writing_again_replaces_the_curve(tmp_path):
    write([{"step": 0, "time": 1.0, "loss": 1.0}], tmp_path)
    write([{"step": 0, "time": 1.0, "loss": 2.0}], tmp_path)
    assert read(tmp_path) == {"loss": [(0, 1.0, 2.0)]}


def test_words_and_truths_are_no_curves():
    assert list(curves({"step": 1, "loss": 1, "cause": "notice", "skipped": True})) == [("loss", 1.0)]


def test_a_folder_below_a_file_is_a_fault_of_one_line(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("sys.argv", ["tensorboard", str(tmp_path / "file" / "events"), "--json"])
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    with pytest.raises(SystemExit) as left:
        main()
    printed = capsys.readouterr()
    assert printed.err.startswith(f"{tmp_path}/file/events: events cannot be written there (")
    (document,) = checked("events", printed.out)
    assert (left.value.code, document["exit_code"]) == (2, 2)


def test_programs_get_the_folder_and_the_steps_in_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["tensorboard", str(tmp_path / "events"), "--json"])
    monkeypatch.setattr("sys.stdin", io.StringIO('{"step": 0, "time": 1.0, "loss": 1.0}\n'))
    assert main() == 0
    assert checked("events", capsys.readouterr().out) == [
        {"version": 1, "folder": str(tmp_path / "events"), "steps": 1}
    ]
