"""A run that was copied or renamed does not pass for the original."""

import os
import shutil

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.run import protocol
from gmml_cluster.run.finding.location import demand_in_place, misplaced
from gmml_cluster.run.log import check
from gmml_cluster.run.root import create_run, remove_run, run_root


@pytest.fixture
def run(tmp_path):
    return create_run(str(tmp_path / "runs"), "live", {}, {})


def submit(run):
    return protocol.submit(run.log, launcher="local", code="c", bounds={})


def test_a_run_where_it_was_submitted_is_in_place(run):
    assert misplaced(run) is None
    demand_in_place(run)


@pytest.mark.parametrize("name", ["live", "other"])
def test_a_copy_is_refused_although_a_move_would_not_be(run, tmp_path, name):
    submit(run)
    shutil.copytree(run.url, tmp_path / "elsewhere" / name)
    copy = run_root(str(tmp_path / "elsewhere"), name)
    assert misplaced(copy).kind == "copied"
    with pytest.raises(SpecError, match=f"{copy.url}: is a copy of the run at {run.url}, .*; use the original"):
        demand_in_place(copy, moved=True)


def test_a_renamed_run_is_refused_until_a_submit_records_its_new_location(run):
    os.rename(run.url, f"{run.url}-bak")
    moved = run_root(run.root, "live-bak")
    assert misplaced(moved).kind == "moved"
    with pytest.raises(SpecError, match=f"was moved or renamed; its log names jobs .* at {run.url}; move it back"):
        demand_in_place(moved)
    demand_in_place(moved, moved=True)
    submit(moved)
    assert misplaced(run_root(run.root, "live-bak")) is None
    assert moved.log.refresh().location == moved.url
    assert check(moved.log) == []


def test_another_run_that_took_the_old_name_does_not_make_a_copy_of_the_renamed_one(run):
    os.rename(run.url, f"{run.url}-bak")
    create_run(run.root, "live", {}, {})
    assert misplaced(run_root(run.root, "live-bak")).kind == "moved"


def test_what_cannot_be_read_may_still_be_the_original(run, tmp_path):
    os.rename(run.url, f"{run.url}-bak")
    (tmp_path / "runs" / "live").mkdir()
    (tmp_path / "runs" / "live" / "run.json").symlink_to("run.json")
    assert misplaced(run_root(run.root, "live-bak")).kind == "copied"


def test_a_run_that_is_reached_by_a_link_is_in_place(run, tmp_path):
    os.symlink(tmp_path / "runs", tmp_path / "link")
    assert misplaced(run_root(str(tmp_path / "link"), "live")) is None


def test_a_run_that_is_reached_by_a_second_mount_is_in_place_and_a_copy_there_is_not(run, tmp_path, monkeypatch):
    os.symlink(tmp_path / "runs", tmp_path / "mount")
    shutil.copytree(tmp_path / "runs", tmp_path / "copies")
    monkeypatch.setattr(os.path, "samefile", lambda one, other: False)  # each mount has its own device number
    assert misplaced(run_root(str(tmp_path / "mount"), "live")) is None
    assert misplaced(run_root(str(tmp_path / "copies"), "live")).kind == "copied"


def test_a_log_of_an_earlier_version_does_not_say_where_its_run_lies(run, tmp_path):
    remove_run(run)
    run.store.put("log/00000000.json", b'{"slot":0,"kind":"open","attempt":null,"run":"r","token":"t","time":0}')
    assert misplaced(run_root(run.root, "live")) is None
