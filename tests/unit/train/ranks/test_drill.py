"""What a rank does to itself in a drill, and when."""

import errno
import os
import signal
from types import SimpleNamespace

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.run.drills import KINDS, VARIABLE, Drill
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.rehearsal import Rehearsal, rehearsal
from gmml_cluster.store.requests import Requests
from gmml_cluster.train.ranks import drill
from gmml_cluster.train.ranks.rendezvous import RankInfo


@pytest.fixture
def killed(monkeypatch):
    """Signals that this process would have sent itself."""
    sent = []
    monkeypatch.setattr(os, "kill", lambda pid, number: sent.append(number))
    return sent


@pytest.fixture(autouse=True)
def no_fault_stays():
    yield
    rehearsal.__init__()


def report(step):
    return SimpleNamespace(line={"step": step})


@pytest.mark.parametrize("kind", KINDS)
def test_a_drill_is_read_as_it_was_written_and_by_the_first_attempt_alone(kind):
    environment = {VARIABLE: str(Drill(kind, 29))}
    assert Drill.asked(environment, 1) == Drill(kind, 29)
    assert Drill.asked(environment, 2) is None
    assert Drill.asked({}, 1) is None


@pytest.mark.parametrize(
    ("kind", "first", "last"),
    [
        ("preempt", [signal.SIGTERM], [signal.SIGTERM]),
        ("kill", [], [signal.SIGKILL]),
        ("hang", [], [signal.SIGSTOP]),
    ],
)
def test_notice_is_for_all_ranks_and_the_last_one_dies_or_hangs_behind_the_step_alone(
    monkeypatch, killed, kind, first, last
):
    monkeypatch.setenv(VARIABLE, str(Drill(kind, 3)))
    for rank, expected in ((0, first), (1, last)):
        written = []
        write = drill.rehearsed(written.append, 1, RankInfo(rank, 2, rank, 2))
        for step in range(6):
            before = len(killed)
            write(report(step))
            assert killed[before:] == (expected if step == 3 else [])
        assert len(written) == 6


def test_without_a_drill_steps_are_recorded_as_ever(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    write = [].append
    assert drill.rehearsed(write, 1, RankInfo(0, 1, 0, 1)) is write


def test_a_full_disk_refuses_writes_by_name_and_reads_go_on(tmp_path):
    store = PosixStore(tmp_path)
    store.put("kept", b"1")
    rehearsal.fill(60)
    with pytest.raises(StorageError, match="full"):
        store.put("more", b"2")
    assert store.get("kept") == b"1"
    assert [found.name for found in store.list_objects()] == ["kept"]


def test_a_store_that_is_cut_off_resets_requests_for_a_while():
    faults = Rehearsal()
    faults.cut(60)
    with pytest.raises(OSError) as caught:
        faults.write()
    assert caught.value.errno == errno.EIO
    with pytest.raises(ConnectionResetError):
        faults.request()
    faults.cut(-1)
    faults.write()
    faults.request()


def test_a_cut_is_a_failure_that_requests_are_tried_again_after():
    pytest.importorskip("s3fs")
    rehearsal.cut(0.5)
    asked = []

    def action():
        asked.append(1)
        rehearsal.request()
        return "there"

    assert Requests().persist("s3://bucket", action) == "there"
    assert len(asked) > 1
