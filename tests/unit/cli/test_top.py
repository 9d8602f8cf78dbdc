"""`gmml top` shows many runs in 80 columns, and asks little of schedulers and stores."""

import io

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gmml_cluster import api
from gmml_cluster.cli.top import IDLE_LOOKS, Looks, command, in_order
from gmml_cluster.cli.top_view import cells, cut, short, view
from gmml_cluster.launch.protocol import JobReport
from gmml_cluster.launch.runs import status as statuses
from gmml_cluster.run import protocol
from gmml_cluster.run.root import create_run, remove_run
from tests.fixtures.outputs import checked
from tests.unit.cli.test_status import training


def document(run, state, **fields):
    progress = {"samples_per_s": 1234.5, "data_wait_share": 0.031, "left_s": 98_000.0} if state == "running" else None
    known = {"run": run, "state": state, "step": 41, "steps": 100, "progress": progress, "start_failed": None}
    return {**known, "goodput": {"training_share": 0.9876}, "attempts": [{"cause": None, "attempt": 3}], **fields}


def drawn(documents, faults=(), rows=None):
    file = io.StringIO()
    Console(file=file, width=80).print(view(documents, faults, rows=rows))
    return file.getvalue().splitlines()


def test_a_run_is_a_line_of_at_most_80_columns_with_all_that_matters():
    lines = drawn(
        [document("a-run-with-quite-a-long-name-of-a-sweep-lr1e-4-mae", "running"), document("b", "finished")]
    )
    assert all(len(line) <= 80 for line in lines)
    assert lines[0] == "2 runs: 1 running, 1 finished; 1,234 images/s"
    assert lines[1].split() == ["RUN", "STATE", "STEP", "DONE", "IMG/S", "WAIT", "LEFT", "GOOD", "LAST"]
    assert lines[2].split()[1:] == ["running", "41", "42%", "1234", "3%", "1d", "3h", "99%", "attempt", "3"]
    assert lines[2].startswith("a-run-with")
    assert lines[3].split() == ["b", "finished", "41", "42%", "-", "-", "-", "99%", "attempt", "3"]


def test_runs_of_a_sweep_are_told_apart_by_the_ends_of_their_names():
    base = "vit-b-in21k-decoder-of-512-columns"
    names = [drawn([document(f"{base}-{end}", "running")])[2].split()[0] for end in ("lr1e-4", "lr3e-4", "mae-lr1e-4")]
    assert [name.rpartition("-lr")[2] for name in names] == ["1e-4", "3e-4", "1e-4"]
    assert len(set(names)) == 3
    assert all(name.startswith("vit-b") for name in names)


@given(st.text("abc-", min_size=1, max_size=63), st.integers(min_value=3, max_value=80))
def test_a_name_is_cut_to_its_two_ends(name, width):
    shown = cut(name, width)
    head, _, tail = shown.partition("…")
    assert len(shown) == min(len(name), width)
    assert name.startswith(head)
    assert name.endswith(tail)
    assert (head == name) == (len(name) <= width)


def test_figures_of_a_long_run_still_fit():
    of_long = document("a" * 63, "interrupted", step=12_345_678, steps=99_999_999)
    of_long["progress"] = {"samples_per_s": 1.2e6, "data_wait_share": 1.0, "left_s": 400 * 86400.0}
    of_long["attempts"] = [{"cause": "out_of_memory", "attempt": 1000}]
    (line,) = drawn([of_long])[2:]
    assert len(line) <= 80
    assert {"interrupted", "12345678", "12%", "1200k", "100%", "400d"} <= set(line.split())


def test_what_does_not_fit_the_screen_is_counted_below():
    lines = drawn([document(f"r{n}", "running") for n in range(500)], ["r7: gone"], rows=24)
    assert len(lines) <= 24
    assert lines[-2:] == ["r7: gone", "and 481 runs more"]


def test_runs_at_work_come_first_then_those_that_need_a_person():
    states = ("finished", "failed", "queued", "running", "interrupted", "stopping")
    order = [each["state"] for each in in_order([document(state, state) for state in states])]
    assert order == ["running", "stopping", "queued", "failed", "interrupted", "finished"]


def test_a_run_that_nothing_is_known_of_has_dashes():
    empty = document("a", "empty", step=None, steps=None, attempts=[], goodput={"training_share": None})
    assert cells(empty) == ["a", "empty", "-", "-", "-", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "-"), (0.2, "0s"), (59, "59s"), (61, "1m 1s"), (7260, "2h 1m"), (90_000, "1d 1h")]
)
def test_durations_have_two_units(seconds, shown):
    assert short(seconds) == shown


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A run that trains, and one that was stopped; every call to a scheduler is counted."""
    calls = []

    def poll(launcher, jobs):
        calls.append(sorted(jobs))
        return dict.fromkeys(jobs, JobReport("running"))

    monkeypatch.setattr("gmml_cluster.launch.jobs._poll", poll)
    opening = {"spec": "0", "code": "0", "versions": {}}
    training(create_run(str(tmp_path), "busy", {}, opening))
    stopped = create_run(str(tmp_path), "idle", {}, opening)
    protocol.submit(stopped.log, launcher="local", code="0", bounds={})
    protocol.stop(stopped.log, "cancelled")
    return str(tmp_path), calls


def test_a_look_asks_the_scheduler_once_and_idle_runs_seldom(root, monkeypatch):
    folder, calls = root
    asked = []
    real = statuses.statuses
    monkeypatch.setattr(api, "statuses", lambda runs, **_: (asked.append([run.name for run in runs]), real(runs))[1])
    looks = Looks(folder)
    for _ in range(2 * IDLE_LOOKS):
        assert [(each["run"], each["state"]) for each in looks.look()] == [("busy", "running"), ("idle", "stopped")]
    assert len(calls) == 2 * IDLE_LOOKS
    assert all("busy" in names for names in asked)
    assert sum("idle" in names for names in asked) == 3


def test_runs_that_come_and_go_are_seen_at_the_next_look(root):
    looks = Looks(root[0])
    looks.look()
    created = create_run(root[0], "new", {}, {"spec": "0", "code": "0", "versions": {}})
    assert {each["run"] for each in looks.look()} == {"busy", "idle", "new"}
    remove_run(created)
    assert {each["run"] for each in looks.look()} == {"busy", "idle"}


def test_scripts_get_one_look_as_text_or_as_json(root):
    shown = CliRunner().invoke(command, ["--once", "--root", root[0]])
    assert (shown.exit_code, shown.output.splitlines()[0].split(";")[0]) == (0, "2 runs: 1 running, 1 stopped")
    documents = checked("top", CliRunner().invoke(command, ["--json", "--root", root[0]]).stdout)
    assert [(each["run"], each["version"]) for each in documents] == [("busy", 3), ("idle", 3)]
