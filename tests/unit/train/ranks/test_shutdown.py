"""A rank that fails tells why, the end names what tells most, and nobody waits for ever for last words."""

import logging
import os
import threading
import time

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.run.codes import COME_BACK, FAILED, STORAGE
from gmml_cluster.train.ranks import cluster_env, shutdown
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.shutdown import Leaving, describe, first_error


class Left(BaseException):
    """Stands for the end of the process."""


class KeyValueStore:
    """Keys of one attempt, in this process."""

    def __init__(self, **known):
        self.keys = dict(known)

    def get(self, key):
        if self.keys is None:
            raise RuntimeError("rank 0 is gone")
        return self.keys.get(key)

    def set(self, key, value):
        if self.keys is None:
            raise RuntimeError("rank 0 is gone")
        self.keys[key] = value


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    monkeypatch.setattr(shutdown, "_ECHO_S", 0.0)
    monkeypatch.setattr(shutdown, "_LAST_WORDS_S", 0.1)
    monkeypatch.setattr(shutdown, "leave_s", lambda: 0.2)
    monkeypatch.setattr(shutdown, "DEADLINE_S", 0.4)


def code_of(action, *arguments):
    with pytest.raises(Left) as left:
        action(*arguments)
    return left.value.args[0]


def rank(number, board, ranks=2):
    ends = []
    return Leaving(RankInfo(number, ranks, number, ranks), board, write_end=ends.append), ends


def told(rank, kind, time):
    return {"rank": rank, "kind": kind, "cause": "error", "time": time, "host": "h", "message": "m"}


def test_a_rank_s_own_error_outranks_lost_peers_and_then_the_earliest_counts():
    lost, late, early = told(0, "lost_peer", 1.0), told(1, "own", 5.0), told(2, "own", 4.0)
    assert first_error([lost, late, early]) is early
    assert first_error([lost, late]) is late
    assert first_error([lost]) is lost


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("[gloo] Connection closed by peer [127.0.0.1]:4", "lost_peer"),
        ("Timed out waiting 5000ms for recv", "lost_peer"),
        ("save/9/1 was not written within 600 s", "lost_peer"),
        ("/corpus/a.tar: is missing", "own"),
    ],
)
def test_an_error_that_tells_only_of_a_peer_is_known_as_such(message, kind):
    assert describe(RuntimeError(message), RankInfo(1, 2, 1, 2))["kind"] == kind


def test_a_fault_of_storage_is_a_rank_s_own_whatever_it_quotes_and_its_code_says_so():
    board = KeyValueStore()
    leave, ends = rank(0, board)
    assert code_of(leave.fail, StorageError("s3://b/a: no answer (Connection reset by peer)")) == STORAGE
    assert [(end["kind"], end["cause"]) for end in ends] == [("own", "storage")]


def test_rank_0_ends_the_attempt_with_the_peer_s_own_error():
    board = KeyValueStore(**{"error/1": told(1, "own", 9.0)})
    leave, ends = rank(0, board)
    assert code_of(leave.fail, RuntimeError("Connection closed by peer")) == FAILED
    assert [end["rank"] for end in ends] == [1]
    assert board.keys["ended"] == FAILED


def test_rank_0_s_guardian_ends_the_attempt_that_its_own_loop_does_not_notice():
    leave, ends = rank(0, KeyValueStore(**{"error/1": told(1, "own", 9.0), "failed": 1}))
    assert code_of(leave.watch) == FAILED
    assert [end["rank"] for end in ends] == [1]


def test_rank_0_leaves_although_the_end_cannot_be_written():
    board = KeyValueStore()
    leave, _ = rank(0, board)

    def refuse(error):
        raise OSError("disk full")

    leave.write_end = refuse
    assert code_of(leave.fail, ValueError("x")) == FAILED
    assert board.keys["ended"] == FAILED


def test_a_failed_rank_tells_its_error_and_leaves_with_rank_0_s_code():
    board = KeyValueStore()
    leave, _ = rank(1, board)
    threading.Timer(0.05, board.set, ("ended", COME_BACK)).start()
    assert code_of(leave.fail, ValueError("x")) == COME_BACK
    assert board.keys["error/1"]["message"] == "ValueError: x"
    assert board.keys["failed"] == board.keys["left/1"] == 1


def test_a_rank_whose_rank_0_is_silent_or_gone_leaves_all_the_same():
    silent, gone = KeyValueStore(), KeyValueStore()
    gone.keys = None
    assert code_of(rank(1, silent)[0].leave, COME_BACK) == COME_BACK
    assert code_of(rank(1, gone)[0].watch) == FAILED
    assert code_of(rank(1, gone)[0].fail, ValueError("x")) == FAILED


def test_a_rank_waits_for_an_end_that_takes_longer_than_rank_0_may_wait_for_it(monkeypatch):
    monkeypatch.setattr(shutdown, "leave_s", lambda: 0.0)
    monkeypatch.setattr(shutdown, "DEADLINE_S", 60.0)
    board = KeyValueStore()
    threading.Timer(0.05, board.set, ("ended", COME_BACK)).start()
    assert code_of(rank(1, board)[0].leave, FAILED) == COME_BACK


@pytest.mark.parametrize(("told", "limit_s"), [("", 10.0), ("30", 10.0), ("5", 3.0), ("1", 1.0)])
def test_the_end_s_limit_follows_kill_wait_and_stands_without_it(monkeypatch, told, limit_s):
    monkeypatch.setenv("GMML_KILL_WAIT_S", told)
    assert cluster_env.leave_s() == limit_s


def test_rank_0_leaves_last():
    board = KeyValueStore()
    leave, _ = rank(0, board)
    seen = []
    leave.last_words = lambda: seen.append(board.keys.get("left/1"))
    threading.Timer(0.05, board.set, ("left/1", 1)).start()
    assert code_of(leave.leave, COME_BACK) == COME_BACK
    assert seen == [1]


def test_last_words_that_nobody_takes_do_not_keep_a_rank():
    leave, _ = rank(1, KeyValueStore(ended=COME_BACK))
    leave.last_words = threading.Event().wait
    began = time.monotonic()
    assert code_of(leave.leave, FAILED) == COME_BACK
    assert time.monotonic() - began < 5


def test_what_cannot_be_said_is_named(caplog):
    board = KeyValueStore()
    board.keys = None
    with caplog.at_level(logging.WARNING):
        code_of(rank(1, board)[0].fail, ValueError("x"))
    assert "could not say its last words: rank 0 is gone" in caplog.text
