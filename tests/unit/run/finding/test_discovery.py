"""Which run is meant, and which runs there are."""

import os

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.run.finding.discovery import find_run, note_root, noted_roots, runs_below, runs_under
from gmml_cluster.run.root import create_run


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "runs")


def create(root, name):
    return create_run(root, name, {}, {})


def test_a_run_is_found_by_name_unique_prefix_or_folder(root):
    for name in ("vit", "vit-large", "mae"):
        create(root, name)
    assert find_run("vit", [root]).name == "vit"
    assert find_run("vit-", [root]).name == "vit-large"
    assert find_run(f"{root}/mae", []).url == f"{root}/mae"
    assert [run.name for run in runs_under(root)] == ["mae", "vit", "vit-large"]


def test_a_root_that_cannot_be_read_says_nothing_where_the_run_is_found_under_another(root, caplog, capsys):
    create(root, "a")
    assert find_run("a", ["gs://x", root]).name == "a"
    assert (caplog.text, *capsys.readouterr()) == ("", "", "")


def test_runs_and_the_faults_of_unreadable_roots_come_apart(root, tmp_path):
    create(root, "a")
    (tmp_path / "file").write_text("")
    found = runs_below(["gs://x", root, str(tmp_path / "file"), str(tmp_path / "not yet")])
    assert [run.name for run in found.runs] == ["a"]
    assert [str(fault).split(": ")[0] for fault in found.faults] == ["gs://x", f"{tmp_path}/file/"]


def test_a_root_that_a_user_names_and_that_does_not_exist_is_a_fault(tmp_path):
    with pytest.raises(SpecError, match=f"--root: {tmp_path}/typo does not exist"):
        runs_under(str(tmp_path / "typo"))


def test_two_hits_are_a_fault_that_lists_them(root, tmp_path):
    create(root, "vit-a"), create(root, "vit-b"), create(str(tmp_path / "other"), "vit-a")
    with pytest.raises(SpecError, match=f"means 2 runs: {root}/vit-a, {root}/vit-b"):
        find_run("vit", [root])
    with pytest.raises(SpecError, match="means 2 runs"):
        find_run("vit-a", [root, str(tmp_path / "other")])


def test_one_root_under_two_names_is_one_hit(root, tmp_path):
    create(root, "a")
    os.symlink(root, tmp_path / "link")
    assert find_run("a", [root, f"{root}/", str(tmp_path / "link")]).name == "a"


def test_where_nothing_is_found_unreadable_roots_are_named(root, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match="no such run"):
        find_run("a", [root])
    with pytest.raises(SpecError, match=r"no such run \(gs://x: no store"):
        find_run("a", [root, "gs://x"])
    with pytest.raises(SpecError, match="holds no run"):
        find_run(f"{root}/a", [])


def test_roots_are_noted_once_under_xdg_state_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert noted_roots() == []
    note_root("s3://bucket/runs"), note_root("/runs"), note_root("s3://bucket/runs/")
    assert noted_roots() == ["s3://bucket/runs", "/runs"]
    assert (tmp_path / "state/gmml/roots").exists()


def test_a_root_that_is_a_file_is_said_to_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SpecError, match=f"--root: {tmp_path}/file is a file and no folder, so no run lies there; "):
        runs_under(str(tmp_path / "file"))
