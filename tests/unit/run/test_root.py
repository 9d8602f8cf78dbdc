import json
import os
import subprocess
import sys

import pytest

from gmml_cluster.errors import SpecError, StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.finding.discovery import find_run
from gmml_cluster.run.root import create_run, remove_run, run_root
from gmml_cluster.store.posix import TEMPORARY, PosixStore
from gmml_cluster.store.protocol import AlreadyExists


@pytest.fixture
def root(tmp_path):
    return str(tmp_path / "runs")


def create(root, name):
    return create_run(root, name, {"spec.yaml": b"name: a\n", "code/d.zip": b"zip"}, {"code": "d"})


def test_a_created_run_has_its_files_and_an_open_entry(root):
    run = create(root, "a")
    assert run.store.get("spec.yaml") == b"name: a\n"
    opened = dict(run.log.refresh().opened)
    assert sorted(opened.pop("files")) == ["code/d.zip", "run.json", "spec.yaml"]
    assert opened == {"code": "d", "root": root, "name": "a"}
    assert json.loads(run.store.get("run.json"))["run"] == run.log.refresh().run


def test_a_name_is_taken_once(root):
    create(root, "a")
    with pytest.raises(AlreadyExists):
        create(root, "a")
    assert run_root(root, "a").log.refresh().slots == 1


@pytest.mark.parametrize("fails_at", ["run.json", "spec.yaml", "code/d.zip", "log/00000000.json"])
def test_a_run_that_cannot_be_made_leaves_nothing_behind(root, monkeypatch, fails_at):
    write = PosixStore._write

    def failing(self, name, *arguments, **options):
        if name == fails_at:
            raise StorageError("disk full")
        write(self, name, *arguments, **options)

    monkeypatch.setattr(PosixStore, "_write", failing)
    with pytest.raises(StorageError, match="disk full"):
        create(root, "a")
    assert not os.path.exists(root) or os.listdir(root) == []


@pytest.mark.parametrize("unanswered", ["run.json", "log/00000000.json"])
def test_a_run_that_somebody_else_relies_on_by_then_is_not_removed(root, monkeypatch, unanswered):
    """Found by the simulation: a submission got no answer, and deleted the run that another one had made or resumed."""
    write = PosixStore._write

    def no_answer(self, name, *arguments, **options):
        if name != unanswered:
            return write(self, name, *arguments, **options)
        monkeypatch.undo()
        if name == "run.json":  # never arrived, and another submission came first
            other = create(root, "a")
        else:
            write(self, name, *arguments, **options)
            other = run_root(root, "a")
        protocol.submit(other.log, launcher="local", code="d", bounds={})
        monkeypatch.setattr(PosixStore, "get", lookless)
        raise StorageError("no answer")

    get, looks = PosixStore.get, []

    def lookless(self, name, *arguments):
        looks.append(name)
        if len(looks) == 1:  # the read that would tell that the entry arrived
            raise StorageError("no answer")
        return get(self, name, *arguments)

    monkeypatch.setattr(PosixStore, "_write", no_answer)
    with pytest.raises(StorageError, match="no answer"):
        create(root, "a")
    monkeypatch.undo()
    assert run_root(root, "a").log.refresh().submitted is not None
    assert json.loads(run_root(root, "a").store.get("run.json"))["run"] == run_root(root, "a").log.refresh().run


@pytest.mark.parametrize("name", ["", "A", "../a", "a/b", ".a", "a" * 64])
def test_a_name_that_could_leave_the_root_is_refused(root, name):
    with pytest.raises(SpecError, match="a run's name has"):
        create(root, name)


def test_what_a_removal_left_of_a_log_is_found_so_that_it_can_be_removed(root):
    run = run_root(root, "a")
    run.store.put("log/00000004.json", b"{}")
    assert find_run("a", [root]) == find_run(run.url, []) == run
    remove_run(run)
    assert os.listdir(root) == []


def test_a_removed_run_is_gone_and_its_log_went_last_from_the_highest_slot_down(root, monkeypatch):
    run = create(root, "a")
    protocol.submit(run.log, launcher="local", code="d", bounds={})
    run.store.put(f"checkpoints/00000009-0001/{TEMPORARY}killed", b"half")
    gone = []
    unlink = PosixStore.delete

    def delete(self, names):
        names = list(names)
        gone.extend(names)
        unlink(self, names)

    monkeypatch.setattr(PosixStore, "delete", delete)
    remove_run(run)
    assert gone[-3:] == ["log/00000001.json", "log/00000000.json", "a/run.json"]
    assert os.listdir(root) == []


def test_reading_runs_imports_neither_pydantic_nor_torch_nor_s3fs():
    code = (
        "from gmml_cluster.run import root, ledger, log, protocol, uploads; from gmml_cluster.run.ends import causes; "
    )
    code += "from gmml_cluster.run.finding import discovery, location; from gmml_cluster.run.saving import retention; "
    code += "from gmml_cluster.store import probe, posix; import sys; "
    code += "print([m for m in ('pydantic', 'torch', 'numpy', 's3fs', 'asyncio') if m in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
