"""The process of a rank under a Ray worker, and what the attempt's actor says of the ranks."""

import os
import signal
import time

import pytest

from gmml_cluster.launch.ray import worker
from gmml_cluster.launch.ray.worker import AttemptRecord, Left, RankProcess
from gmml_cluster.run.codes import UNMET

WAIT_FOR_PIPE = "import os; os.read(int(os.environ['GMML_PIPE']), 1); print('saved'); raise SystemExit(77)"


def until_left(rank):
    deadline = time.monotonic() + 240
    while rank.code is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return rank.code


def test_a_rank_sees_its_variables_and_its_last_line_is_quoted_where_it_failed():
    with RankProcess(
        3, ["-c", "import os, sys; sys.exit('rank ' + os.environ['RANK'] + ' is bad')"], {"RANK": "3"}
    ) as rank:
        assert until_left(rank) == 1
        assert rank.tail() == "rank 3 is bad"


def test_a_killed_rank_counts_as_its_signal():
    with RankProcess(0, ["-c", "import os; os.kill(os.getpid(), 9)"], {}) as rank:
        assert until_left(rank) == 128 + signal.SIGKILL


def test_a_rank_whose_worker_dies_reads_the_end_of_its_pipe_and_is_waited_for():
    with RankProcess(0, ["-c", WAIT_FOR_PIPE], {}) as rank:
        assert rank.code is None
        rank.abandon()
        assert rank.code == 77


def test_a_notice_is_a_signal(tmp_path):
    ready = tmp_path / "ready"
    script = (
        f"import signal, sys; signal.signal(15, lambda *_: sys.exit(77)); open({str(ready)!r}, 'w'); signal.pause()"
    )
    with RankProcess(0, ["-c", script], {}) as rank:
        deadline = time.monotonic() + 240
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        rank.give_notice()
        assert rank.noticed
        assert until_left(rank) == 77


@pytest.mark.parametrize("stopped", [True, False])
def test_a_rank_that_stays_when_another_has_failed_is_ended_and_what_is_known_of_it_reported(stopped, monkeypatch):
    monkeypatch.setattr(worker, "_TICK_S", 0.05)
    monkeypatch.setattr(worker, "_is_drained", lambda node: False)
    monkeypatch.setattr(worker, "_ask", lambda method, *arguments: method(*arguments))
    attempt = AttemptRecord(2)
    with RankProcess(1, ["-c", "import time; time.sleep(600)"], {}) as rank:
        if stopped:
            rank._process.send_signal(signal.SIGSTOP)
            os.waitid(os.P_PID, rank._process.pid, os.WSTOPPED | os.WNOWAIT)
        attempt.report(Left(0, 1))
        attempt.deadline = time.monotonic()
        worker._watch(rank, attempt, "node", "10.0.0.2")
    assert rank.code == 128 + signal.SIGKILL
    assert attempt.left[1] == Left(1, None, address="10.0.0.2", stopped=stopped)


def test_an_attempt_is_over_when_all_have_left():
    attempt = AttemptRecord(2)
    attempt.place(0, "a")
    attempt.place(1, "b")
    attempt.report(Left(0, 0))
    assert not attempt.is_over()
    assert attempt.nodes_of_missing() == ["b"]
    attempt.report(Left(1, 0))
    assert attempt.is_over()
    assert [rank.code for rank in attempt.all_left()] == [0, 0]


def test_ranks_that_stay_too_long_after_one_has_failed_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(worker, "LEAVE_S", 0.0)
    attempt = AttemptRecord(2)
    attempt.report(Left(1, 1))
    time.sleep(0.01)
    assert attempt.is_over()


@pytest.mark.parametrize(("code", "leave"), [(UNMET, True), (1, False)])
def test_a_rank_that_failed_before_the_ranks_met_ends_the_others(code, leave):
    attempt = AttemptRecord(2)
    attempt.report(Left(1, code))
    assert attempt.is_to_leave() is leave


def test_the_driver_sends_all_ranks_away_and_knows_their_nodes():
    attempt = AttemptRecord(2)
    attempt.place(0, "a")
    attempt.place(1, "a")
    assert not attempt.is_to_leave()
    attempt.send_away()
    assert attempt.is_to_leave()
    assert attempt.places() == ["a", "a"]
