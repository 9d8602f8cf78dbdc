import json

import pytest

from gmml_cluster.run import protocol
from gmml_cluster.run.goodput import KINDS
from gmml_cluster.run.history import from_sum
from gmml_cluster.run.ledger import change_in_words, jobs_of, platform_changes, state, status
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.run.root import log_stem, metrics_stem
from gmml_cluster.run.uploads import log_parts, metric_lines
from tests.unit.run.memory import MemoryStore


@pytest.fixture
def log():
    log = Log(MemoryStore())
    log.append(lambda history: Draft("open", None, {}, run="r"))
    return log


def submit(log, job="1", code="c"):
    token = protocol.submit(log, launcher="local", code=code, bounds={})
    protocol.queued(log, token, job)
    return token


def attempt(log, token, job="1", first=0):
    number = protocol.claim(log, submit=token, job=job, restart=0, topology={"ranks": 2}, machine={}).attempt
    protocol.begin(log, number, resumed=None, step=first, micro=8, start_s=0.0, load_s=0.0)
    return number


def commit(log, number, step):
    protocol.commit(log, number, step=step, manifest="m", size=1, seconds=0.0)


def test_the_state_follows_the_log_and_the_jobs(log):
    assert state(log.refresh(), {}) == "empty"
    token = protocol.submit(log, launcher="local", code="c", bounds={})
    assert state(log.refresh(), {}) == "submitted"
    protocol.queued(log, token, "1")
    assert [state(log.refresh(), {"1": job}) for job in ("queued", "unknown", "running", "gone")] == [
        "queued",
        "queued",
        "starting",
        "interrupted",
    ]
    number = attempt(log, token)
    assert [state(log.refresh(), {"1": job}) for job in ("running", "unknown", "gone")] == [
        "running",
        "running",
        "interrupted",
    ]
    protocol.stop(log, "cancelled")
    assert [state(log.refresh(), {"1": job}) for job in ("running", "gone")] == ["stopping", "stopped"]
    protocol.end(log, number, "cancelled", step=3)
    assert state(log.refresh(), {"1": "gone"}) == "stopped"
    number = attempt(log, submit(log, "2"), "2")
    protocol.end(log, number, "error", message="bang")
    assert [state(log.refresh(), {"2": job}) for job in ("running", "gone")] == ["stopping", "failed"]
    number = attempt(log, submit(log, "3"), "3")
    protocol.end(log, number, "finished", step=9)
    assert state(log.refresh(), {"3": "gone"}) == "finished"
    submit(log, "4")
    assert state(log.refresh(), {"4": "queued"}) == "queued"


def test_the_jobs_that_decide_are_the_latest_submits_and_those_without_an_end(log):
    attempt(log, submit(log, "1"), "1")
    submit(log, "2")
    assert jobs_of(log.refresh()) == ("2", "1")


def test_a_job_that_never_claimed_failed(log):
    token = submit(log)
    protocol.start_failed(log, token, message="no GPU")
    shown = status(log.refresh(), {"1": "gone"})
    assert (shown["state"], shown["start_failed"]) == ("failed", "no GPU")
    attempt(log, token)
    assert status(log.refresh(), {"1": "gone"})["start_failed"] is None


def test_status_has_attempts_causes_code_and_goodput(log):
    first = attempt(log, submit(log, code="old"))
    commit(log, first, 9)
    protocol.end(log, first, "error", step=14, message="bang", rank=1)
    second = attempt(log, submit(log, "2", code="new"), "2", first=10)
    commit(log, second, 19)
    for seconds in (1.5, 2.0):
        protocol.score(log, "evaluations/1.json", "0", step=19, scores=[], attempt=second, seconds=seconds)
    protocol.score(log, "evaluations/2.json", "0", step=19, scores=[])
    shown = status(log.refresh(), {"2": "running"})
    assert (shown["state"], shown["step"], shown["committed_step"]) == ("running", 19, 19)
    assert shown["checkpoint"] == "checkpoints/00000019-0002"
    assert [(a["cause"], a["first_step"], a["last_step"]) for a in shown["attempts"]] == [
        ("error", 0, 14),
        (None, 10, 19),
    ]
    assert shown["attempts"][0]["told"] == {"rank": 1, "message": "bang"}
    assert shown["code"] == [{"code": "old", "first_step": 0}, {"code": "new", "first_step": 10}]
    goodput = dict(shown["goodput"])
    assert set(goodput.pop("rank_s")) == set(KINDS)
    goodput.pop("training_share")  # the entries of this test are written within moments
    assert goodput == {"steps_made": 25, "steps_kept": 20, "share": 0.8, "evaluation_s": 3.5}
    assert [a["evaluation_s"] for a in shown["attempts"]] == [0.0, 3.5]
    json.dumps(shown)


def test_other_devices_and_versions_are_named_with_the_attempt_that_had_them_first(log):
    token = submit(log)
    for number, machine in enumerate(
        (
            {"host": "n1", "nodes": 1, "device": "H100", "torch": "2.12.0"},
            {"host": "n2", "nodes": 2, "device": "H100", "torch": "2.12.0"},  # where it runs is no platform
            {"host": "n1", "nodes": 1, "device": "H200", "torch": "2.13.0", "nccl": "2.27.5"},
            {},  # a log of before
            {"host": "n1", "nodes": 1, "device": "H200", "torch": "2.13.0", "nccl": "2.27.5"},
        ),
        1,
    ):
        protocol.claim(log, submit=token, job="1", restart=number, topology={"ranks": 1}, machine=machine)
    changed = {"device": ["H100", "H200"], "torch": ["2.12.0", "2.13.0"], "nccl": [None, "2.27.5"]}
    history = log.refresh()
    (change,) = platform_changes(history)
    assert change == {"attempt": 3, "changed": changed}
    words = "device is H200 and was H100, torch is 2.13.0 and was 2.12.0, nccl is 2.27.5 and was absent"
    assert change_in_words(change) == words
    assert from_sum(json.loads(json.dumps(history.to_sum()))) == history


def test_an_attempt_whose_job_is_gone_counts_as_lost(log):
    attempt(log, submit(log))
    assert status(log.refresh(), {"1": "gone"})["attempts"][0]["cause"] == "lost"


def test_an_attempt_whose_job_waits_for_nodes_again_does_not_live(log):
    attempt(log, submit(log))
    shown = status(log.refresh(), {"1": "queued"})
    assert (shown["state"], shown["attempts"][0]["cause"]) == ("queued", "lost")


@pytest.mark.parametrize(("cause", "now"), [("node_lost", "starting"), ("lost", "starting"), ("error", "stopping")])
def test_a_job_that_runs_after_its_attempt_starts_again_or_is_about_to_leave(log, cause, now):
    protocol.end(log, attempt(log, submit(log, job="17"), job="17"), cause)
    assert status(log.refresh(), {"17": "running"})["state"] == now


@pytest.mark.parametrize("bounds", [{}, {"requeue": False}])
def test_a_run_whose_job_must_not_be_requeued_says_so_once_it_is_interrupted(log, bounds):
    token = protocol.submit(log, launcher="slurm", code="c", bounds=bounds)
    protocol.queued(log, token, "17")
    protocol.end(log, attempt(log, token, job="17"), "notice")
    said = status(log.refresh(), {"17": "gone"})["not_requeued"]
    assert (said is not None and "job 17 is not requeued (no-requeue) and has no successor" in said) is bool(bounds)
    assert status(log.refresh(), {"17": "running"})["not_requeued"] is None


@pytest.mark.parametrize(
    ("notices", "short"),
    [({}, ""), ({"time_limit": 60}, ""), ({"time_limit": 30}, "time limit"), ({"preemption": 41.0}, "a preemption")],
)
def test_a_notice_that_is_shorter_than_the_slowest_save_is_named_with_the_cure(log, notices, short):
    token = protocol.submit(log, launcher="slurm", code="c", bounds={"notices": notices})
    assert (status(log.refresh(), {})["save_s"], status(log.refresh(), {})["short_notices"]) == (None, [])
    number = attempt(log, token)
    for step, seconds in enumerate((42.0, 5.0)):
        protocol.commit(log, number, step=step, manifest="m", size=1, seconds=seconds)
    found = status(log.refresh(), {})
    assert found["save_s"] == 42.0
    assert [short in line for line in found["short_notices"]] == [True] * bool(short)
    assert all(
        "a save takes 42 s" in line and ("slurm.notice" in line or "GraceTime" in line)
        for line in found["short_notices"]
    )


def test_metric_lines_are_the_latest_attempts_and_none_past_where_it_began(log):
    def publish(number, part, steps):
        lines = "".join(json.dumps({"step": step, "attempt": number}) + "\n" for step in steps)
        log.store.put(f"{metrics_stem(number)}-{part:06d}.jsonl", lines.encode())

    token = submit(log)
    publish(attempt(log, token), 0, range(4))
    publish(1, 1, range(4, 9))
    publish(attempt(log, token, first=6), 0, range(6, 7))
    publish(attempt(log, token, first=5), 0, [])
    shown = metric_lines(log.store, log.refresh())
    assert [(line["step"], line["attempt"]) for line in shown] == [(step, 1) for step in range(5)]
    publish(3, 1, range(5, 7))
    shown = metric_lines(log.store, log.refresh())
    assert [(line["step"], line["attempt"]) for line in shown[4:]] == [(4, 1), (5, 3), (6, 3)]


def test_log_parts_are_in_order_of_their_numbers(log):
    for part in (10, 9, 100000000):
        log.store.put(f"{log_stem(1, 0)}-{part:06d}.log", b"")
    log.store.put(f"{log_stem(1, 1)}-000000.log", b"")
    assert [name.rpartition("-")[2] for name in log_parts(log.store, attempt=1, rank=0)] == [
        "000009.log",
        "000010.log",
        "100000000.log",
    ]


def test_the_topology_of_an_attempt_that_began_has_its_micro_batch_as_a_number(log):
    topology = {"ranks": 2, "micro": "auto"}
    number = protocol.claim(log, submit=submit(log), job="1", restart=0, topology=topology, machine={}).attempt
    assert log.refresh().attempt(number).topology == topology
    protocol.begin(log, number, resumed=None, step=0, micro=8, start_s=0.0, load_s=0.0)
    assert log.refresh().attempt(number).topology == {"ranks": 2, "micro": 8}


def test_a_begin_of_old_without_a_micro_batch_is_still_read(log):
    number = protocol.claim(
        log, submit=submit(log), job="1", restart=0, topology={"ranks": 2, "micro": "auto"}, machine={}
    ).attempt
    log.append(lambda history: Draft("begin", number, {"resumed": None, "step": 0}))
    found = log.refresh().attempt(number)
    assert (found.first_step, found.topology["micro"]) == (0, "auto")
