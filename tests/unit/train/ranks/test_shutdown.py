"""A rank that fails reports why, the end names the root cause, and nobody waits for ever for a peer."""

import logging
import os
import threading
import time
from dataclasses import replace

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.codes import COME_BACK, FAILED, NEVER, STORAGE
from gmml_cluster.run.ends import failures
from gmml_cluster.run.root import create_run
from gmml_cluster.train.ranks import cluster_env
from gmml_cluster.train.ranks.agreement import StartInfo
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.shutdown import NOT_HALVED, Limits, Phase, Shutdown
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.ranks.watchdog import watchdog

QUICK = Limits(echo=0.0, upload=0.1, acknowledge=0.2, positions=0.0, end=0.4)


class Left(BaseException):
    """Stands for the end of the process."""


class KeyValueStore:
    """Keys of one attempt, in this process."""

    def __init__(self, **known):
        self.keys = dict(known)

    def connect(self):
        return self

    def get(self, key):
        if self.keys is None:
            raise RuntimeError("Connection reset by peer")
        return self.keys.get(key)

    def set(self, key, value):
        if self.keys is None:
            raise RuntimeError("Connection reset by peer")
        self.keys[key] = value

    def count(self, key):
        self.set(key, (self.get(key) or 0) + 1)
        return self.keys[key]

    def wait(self, key, *, timeout_s):
        deadline = time.monotonic() + timeout_s
        while (value := self.get(key)) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(key)
            time.sleep(0.01)
        return value


@pytest.fixture(autouse=True)
def _exits(monkeypatch):
    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)


@pytest.fixture
def run(tmp_path):
    """A run whose latest submit is that of the start below."""
    made = create_run(str(tmp_path), "x", {"spec.yaml": b""}, {"spec": "s", "code": "c", "versions": {}})
    protocol.submit(made.log, launcher="local", code="c", bounds={})
    return made


def shutdown_of(rank, kv, run=None, *, ranks=2, limits=QUICK):
    start = StartInfo("r", "x", run.log.refresh().submitted if run else "t", "j", 0)
    return Shutdown(RankInfo(rank, ranks, rank, ranks), kv, run, start, StopRequest(), limits)


def claim(shutdown, run):
    claimed = protocol.claim(run.log, submit=run.log.refresh().submitted, job="j", restart=0, topology={}, machine={})
    shutdown.claimed(claimed.attempt)
    return claimed.attempt


def ended(run):
    return [
        (entry.attempt, entry.fields["cause"], entry.fields.get("message"))
        for entry in run.log.read(0)
        if entry.kind == "end"
    ]


def code_of(action, *arguments):
    with pytest.raises(Left) as left:
        action(*arguments)
    return left.value.args[0]


def error_of(rank, **changed):
    error = {"rank": rank, "kind": "own", "cause": "error", "time": 9.0, "host": "h", "message": f"of rank {rank}"}
    return {**error, **changed}


def test_rank_0_ends_the_attempt_with_the_peer_s_own_error(run):
    kv = KeyValueStore(**{"error/1": error_of(1), "left/1": 1})
    shutdown = shutdown_of(0, kv, run)
    claim(shutdown, run)
    assert code_of(shutdown.fail, RuntimeError("Connection closed by peer")) == FAILED
    assert ended(run) == [(1, "error", "of rank 1")]
    assert kv.keys["ended"] == FAILED


def test_the_errors_of_all_ranks_are_kept_with_the_original_s_traceback_first(run):
    own = error_of(1, traceback="Traceback of rank 1", node="n2")
    kv = KeyValueStore(**{"error/1": own, "error/2": error_of(2, kind="lost_peer", traceback="T"), "left/1": 1})
    shutdown = shutdown_of(0, kv, run, ranks=3)
    number = claim(shutdown, run)
    assert code_of(shutdown.fail, RuntimeError("Connection closed by peer")) == FAILED
    groups = failures.read(run.store, number)
    assert [(group["ranks"], group["kind"]) for group in groups] == [
        ([1], "own"),
        ([0], "lost_peer"),
        ([2], "lost_peer"),
    ]
    assert groups[0]["traceback"] == "Traceback of rank 1"
    assert run.log.refresh().attempts[-1].details["node"] == "n2"


def test_of_two_own_errors_the_one_that_came_first_counts_whatever_the_nodes_clocks_say(run, monkeypatch):
    kv = KeyValueStore()
    zero, one = shutdown_of(0, kv, run), shutdown_of(1, kv, run)
    claim(zero, run)
    first = threading.Thread(target=code_of, args=(one.fail, ValueError("first")))
    first.start()
    kv.wait("failed", timeout_s=240)
    monkeypatch.setattr(time, "time", lambda: 0.0)  # rank 0's clock is decades late
    assert code_of(zero.fail, ValueError("second")) == FAILED
    first.join()
    assert ended(run) == [(1, "error", "ValueError: first")]


def test_a_rank_that_lost_its_peer_blames_no_node(run, monkeypatch):
    monkeypatch.setenv("SLURMD_NODENAME", "n1")
    shutdown = shutdown_of(0, KeyValueStore(), run, ranks=1)
    claim(shutdown, run)
    assert code_of(shutdown.fail, RuntimeError("Connection closed by peer")) == FAILED
    assert "node" not in run.log.refresh().attempts[-1].details


def test_rank_0_s_signal_thread_ends_the_attempt_while_its_main_thread_hangs(run):
    shutdown = shutdown_of(0, KeyValueStore(**{"error/1": error_of(1, cause="hardware"), "failed": 1}), run)
    claim(shutdown, run)
    assert code_of(shutdown.check) == FAILED
    assert ended(run) == [(1, "hardware", "of rank 1")]


def test_an_error_before_the_claim_is_that_of_the_start(run):
    shutdown = shutdown_of(0, KeyValueStore(), run)
    assert code_of(shutdown.fail, ValueError("no such option")) == FAILED
    assert ended(run) == [(None, "start_failed", "ValueError: no such option")]


def test_a_failure_whose_error_did_not_arrive_ends_the_attempt_all_the_same(run):
    shutdown = shutdown_of(0, KeyValueStore(failed=1), run)
    claim(shutdown, run)
    assert code_of(shutdown.check) == FAILED
    assert ended(run)[0][2] == "RuntimeError: a rank failed; its error did not arrive"


@pytest.mark.parametrize("failing", [0, 1])
def test_a_fault_of_storage_exits_with_its_own_code_whichever_rank_has_it(run, failing):
    error = StorageError("s3://b/a: no answer (Connection reset by peer)")
    kv = KeyValueStore()
    zero, one = shutdown_of(0, kv, run), shutdown_of(1, kv, run)
    claim(zero, run)
    if failing == 0:
        assert code_of(zero.fail, error) == STORAGE
    else:
        assert code_of(one.fail, error) == STORAGE
        assert code_of(zero.check) == STORAGE
    assert ended(run)[0][1] == "storage"
    assert code_of(one.check) == STORAGE


def test_rank_0_leaves_although_the_end_cannot_be_written(run, monkeypatch):
    kv = KeyValueStore()
    shutdown = shutdown_of(0, kv, run)

    def refuse(*_, **__):
        raise StorageError("disk full")

    monkeypatch.setattr(protocol, "start_failed", refuse)
    assert code_of(shutdown.fail, StorageError("disk full")) == STORAGE
    assert kv.keys["ended"] == STORAGE


def test_a_failed_rank_reports_its_error_and_exits_with_rank_0_s_code():
    kv = KeyValueStore()
    threading.Timer(0.05, kv.set, ("ended", COME_BACK)).start()
    assert code_of(shutdown_of(1, kv).fail, ValueError("x")) == COME_BACK
    assert kv.keys["error/1"]["message"] == "ValueError: x"
    assert kv.keys["failed"] == kv.keys["left/1"] == 1


def test_a_rank_whose_rank_0_is_silent_or_gone_leaves_all_the_same():
    silent, gone = KeyValueStore(), KeyValueStore()
    gone.keys = None
    assert code_of(shutdown_of(1, silent).leave, COME_BACK) == COME_BACK
    assert code_of(shutdown_of(1, gone).check) == FAILED
    assert code_of(shutdown_of(1, gone).fail, ValueError("x")) == FAILED


def test_a_rank_waits_for_an_end_that_takes_longer_than_rank_0_may_wait_for_it():
    kv = KeyValueStore()
    threading.Timer(0.05, kv.set, ("ended", COME_BACK)).start()
    limits = Limits(echo=0.0, upload=0.1, acknowledge=0.0, end=60.0)
    assert code_of(shutdown_of(1, kv, limits=limits).leave, FAILED) == COME_BACK


@pytest.mark.parametrize(("kill_wait", "limit_s"), [("", 10.0), ("30", 10.0), ("5", 3.0), ("1", 1.0)])
def test_rank_0_s_wait_follows_kill_wait_and_has_a_limit_without_it(monkeypatch, kill_wait, limit_s):
    monkeypatch.setenv("GMML_KILL_WAIT_S", kill_wait)
    assert cluster_env.leave_s() == limit_s
    assert Limits().acknowledge == limit_s


def test_rank_0_leaves_last():
    kv = KeyValueStore()
    shutdown = shutdown_of(0, kv, limits=Limits(echo=0.0, upload=5.0, acknowledge=60.0, end=0.4))
    seen = []
    shutdown.upload_log = lambda: seen.append(kv.keys.get("left/1"))
    threading.Timer(0.05, kv.set, ("left/1", 1)).start()
    assert code_of(shutdown.leave, COME_BACK) == COME_BACK
    assert seen == [1]


def test_an_upload_that_hangs_does_not_keep_a_rank():
    shutdown = shutdown_of(1, KeyValueStore(ended=COME_BACK))
    shutdown.upload_log = threading.Event().wait
    assert code_of(shutdown.leave, FAILED) == COME_BACK


def test_what_cannot_be_reported_is_logged(caplog):
    kv = KeyValueStore()
    kv.keys = None
    with caplog.at_level(logging.WARNING):
        code_of(shutdown_of(1, kv).fail, ValueError("x"))
    assert "rank 1 could not report its error: Connection reset by peer" in caplog.text


def test_a_notice_before_the_claim_leaves_no_entry(run):
    shutdown = shutdown_of(0, KeyValueStore(), run)
    shutdown.check()
    shutdown.stop_request.give("notice")
    assert code_of(shutdown.check) == COME_BACK
    assert ended(run) == []


@pytest.mark.parametrize(("stopped", "cause", "code"), [(False, "notice", COME_BACK), (True, "cancelled", NEVER)])
def test_a_notice_after_the_claim_and_before_the_first_step_ends_the_attempt_at_once(run, stopped, cause, code):
    shutdown = shutdown_of(0, KeyValueStore(), run)
    claim(shutdown, run)
    if stopped:
        protocol.stop(run.log, "by hand")
    shutdown.stop_request.give("notice")
    assert code_of(shutdown.check) == code
    assert ended(run) == [(1, cause, None)]


def test_a_notice_while_the_store_is_out_of_reach_exits_with_its_code(run, monkeypatch):
    shutdown = shutdown_of(0, KeyValueStore(), run)
    claim(shutdown, run)
    shutdown.stop_request.give("notice")

    def refuse(*_, **__):
        raise StorageError("s3://b: no answer")

    monkeypatch.setattr(protocol, "look", refuse)
    assert code_of(shutdown.check) == COME_BACK


def test_a_notice_in_training_is_the_loop_s(run):
    shutdown = shutdown_of(0, KeyValueStore(), run)
    claim(shutdown, run)
    shutdown.training()
    shutdown.stop_request.give("notice")
    shutdown.check()
    assert shutdown.phase is Phase.TRAINING


def test_once_an_end_is_being_written_the_signal_thread_starts_no_other(run):
    kv = KeyValueStore(**{"left/1": 1})
    shutdown = shutdown_of(0, kv, run)
    claim(shutdown, run)
    shutdown.training()
    assert shutdown.end("finished", 5) == 0
    kv.set("failed", 1)
    shutdown.check()
    assert code_of(shutdown.leave, 0) == 0
    assert [end[:2] for end in ended(run)] == [(1, "finished")]


def test_an_error_of_the_process_group_is_reported_by_the_signal_thread(run):
    shutdown = shutdown_of(0, KeyValueStore(**{"left/1": 1}), run)
    claim(shutdown, run)
    shutdown.training()
    shutdown.group_problem = lambda: "NCCL watchdog: TIMEOUT in process group 0"
    assert code_of(shutdown.check) == FAILED
    assert ended(run) == [(1, "hardware", "RuntimeError: NCCL watchdog: TIMEOUT in process group 0")]


def test_a_second_thread_that_wants_to_end_the_rank_waits_for_the_first():
    kv, entered = KeyValueStore(), threading.Event()
    shutdown = shutdown_of(0, kv, limits=Limits(echo=0.0, upload=0.1, acknowledge=0.0, end=0.4))
    shutdown._begin_end()

    def second():
        entered.set()
        shutdown.leave(FAILED)

    thread = threading.Thread(target=second, daemon=True)
    thread.start()
    assert entered.wait(240)
    assert code_of(shutdown.leave, COME_BACK) == COME_BACK
    assert kv.keys["ended"] == COME_BACK
    assert thread.is_alive()


@pytest.mark.parametrize(
    ("environment", "stop", "requeued"),
    [
        ({"GMML_NO_KILL": "1", "SLURM_NODEID": "1"}, "", 1),
        ({"GMML_NO_KILL": "1", "SLURM_NODEID": "1"}, "notice", 0),
        ({"GMML_NO_KILL": "1", "SLURM_NODEID": "0"}, "", 0),
        ({"SLURM_NODEID": "1"}, "", 0),
        ({}, "", 0),
    ],
)
@pytest.mark.parametrize("thread", ["main", "signals"])
def test_a_rank_whose_job_lost_its_script_with_rank_0_requeues_it_unless_srun_ends_it(
    run, monkeypatch, environment, stop, requeued, thread
):
    calls = []
    monkeypatch.setattr("gmml_cluster.train.ranks.shutdown.requeue_own_job", lambda: calls.append("requeue"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    kv = KeyValueStore()
    kv.keys = None
    mine = shutdown_of(1, kv, run, limits=replace(QUICK, end=0.1, alone=0.05))
    mine.stop_request.stop = stop
    with pytest.raises(Left):
        mine.leave(FAILED) if thread == "main" else [mine.check() for _ in iter(int, 1)]
    assert len(calls) == requeued


@pytest.fixture
def hangs(monkeypatch):
    monkeypatch.setattr(watchdog, "overdue", lambda: "no progress for 400 s in a step of training")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_without_progress_ends_the_attempt_as_a_hang_and_asks_all_ranks_for_their_stacks(
    run, hangs, caplog, rank
):
    kv = KeyValueStore(**{"left/1": 1, "place/1": {"host": "h1", "node": "n1"}})
    shutdown = shutdown_of(rank, kv, run)
    if rank == 0:
        claim(shutdown, run)
        assert code_of(shutdown.check) == FAILED
        named = "all wait for rank 1 on h1, which does not answer"
        assert ended(run) == [(1, "hang", f"Hang: no progress for 400 s in a step of training; {named}")]
        (attempt,) = run.log.refresh().attempts
        assert {name: attempt.details[name] for name in ("rank", "host", "node")} == {
            "rank": 1,
            "host": "h1",
            "node": "n1",
        }
    else:
        code_of(shutdown.check)
        assert kv.keys["error/1"]["cause"] == "hang"
        assert kv.keys["at/1"]["phase"] == watchdog.phase
    assert kv.keys["failed"] == "hang"
    assert "thread MainThread" in caplog.text


def test_a_rank_that_waits_for_one_that_hangs_writes_its_stacks_once(run, caplog):
    shutdown = shutdown_of(1, KeyValueStore(failed="hang"), run)
    shutdown.check()
    shutdown.check()
    assert caplog.text.count("thread MainThread") == 1


def test_rank_0_does_not_wait_long_for_the_word_of_a_rank_that_is_lost(run):
    shutdown = shutdown_of(0, KeyValueStore(), run, limits=replace(QUICK, acknowledge=3600.0, lost=0.1))
    claim(shutdown, run)
    assert code_of(shutdown.fail, RuntimeError("Connection reset by peer")) == FAILED
    assert ended(run) == [(1, "lost", "RuntimeError: Connection reset by peer")]


@pytest.mark.parametrize(("smaller", "written"), [(16, {"micro": 16}), (None, {})])
def test_an_end_out_of_memory_has_the_micro_batch_of_the_next_attempt(run, smaller, written):
    shutdown = shutdown_of(0, KeyValueStore(**{"left/1": 1}), run)
    claim(shutdown, run)
    shutdown.smaller_micro = smaller
    code_of(shutdown.fail, RuntimeError("CUDA out of memory\non two lines"))
    attempt = run.log.refresh().attempts[-1]
    assert attempt.cause == "out_of_memory"
    assert {name: value for name, value in attempt.details.items() if name == "micro"} == written
    said = "RuntimeError: CUDA out of memory\non two lines"
    assert attempt.details["message"] == (said if smaller else said.replace("\n", f"{NOT_HALVED}\n"))
