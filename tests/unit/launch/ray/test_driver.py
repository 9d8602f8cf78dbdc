"""The driver's decisions, without Ray: how often it makes attempts, with how many nodes, and what it says of each."""

import contextlib
import time
from types import SimpleNamespace

import pytest

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.launch.evidence import Evidence
from gmml_cluster.launch.verdict import Verdict
from gmml_cluster.run.codes import COME_BACK, FAILED, FINISHED, NEVER

pytest.importorskip("ray")
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

from gmml_cluster.launch.ray import driver
from gmml_cluster.launch.ray.driver import Ended
from gmml_cluster.launch.ray.job import Job
from gmml_cluster.launch.ray.worker import Attempt, Left

JOB = Job("root", "run", "s1", "j", "module", (1, 2), 1, {"CPU": 1.0}, "SPREAD", {})
LOST = Verdict(True, "lost")


def clock(pauses):
    """The driver's `time` alone, whose pauses are noted and last no time: `time.sleep` itself is every thread's."""
    return SimpleNamespace(sleep=lambda seconds: pauses.append(f"{seconds:g} s"), monotonic=time.monotonic)


@pytest.fixture
def events(monkeypatch):
    """Pauses, which last no time."""
    found = []
    monkeypatch.setattr(driver, "time", clock(found))
    monkeypatch.setattr(driver, "nodes_to_use", lambda job, had: 2)
    monkeypatch.setattr(driver, "_open", lambda job: None)
    return found


@pytest.fixture
def verdicts(events, monkeypatch):
    """What the log says after each attempt, faults of its store among it."""
    found = []

    def judged(log, start, code, evidence):
        answer = found.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(driver, "judge_by_log", judged)
    return found


@pytest.fixture
def attempts(events, monkeypatch):
    """What each attempt returns; its number goes to the events."""
    found = []
    monkeypatch.setattr(driver, "attempt", lambda job, restart, nodes: events.append(restart) or found.pop(0))
    return found


KILLED = Ended(137, Evidence())


def test_it_waits_as_the_log_says_and_leaves_with_the_last_code(events, attempts, verdicts):
    attempts += [KILLED] * 3
    verdicts += [LOST, Verdict(True, "lost", 20.0), Verdict(False, "lost")]
    assert driver.supervise(JOB) == 137
    assert events == [0, "0 s", 1, "20 s", 2]


def test_ranks_that_found_no_room_are_asked_for_again_without_being_counted(events, attempts, verdicts, monkeypatch):
    monkeypatch.setattr(driver, "_has_ended", lambda job: False)
    attempts += [None, None, Ended(FINISHED, Evidence())]
    verdicts += [Verdict(False, "finished")]
    assert driver.supervise(JOB) == FINISHED
    assert events == [0, 0, 0]


def test_after_ranks_that_found_no_room_nobody_knows_where_they_were_to_be(attempts, verdicts, monkeypatch):
    had = []
    monkeypatch.setattr(driver, "_has_ended", lambda job: False)
    monkeypatch.setattr(driver, "nodes_to_use", lambda job, places: had.append(places) or 2)
    attempts += [None, Ended(137, Evidence(), ("a", "b")), Ended(FINISHED, Evidence())]
    verdicts += [LOST, Verdict(False, "finished")]
    driver.supervise(JOB)
    assert had == [(), None, ("a", "b")]


def test_nobody_asks_for_room_for_a_run_that_is_over(events, attempts, monkeypatch):
    monkeypatch.setattr(driver, "_has_ended", lambda job: True)
    attempts.append(None)
    assert driver.supervise(JOB) == NEVER


def test_a_run_whose_log_cannot_be_read_is_not_taken_for_over(monkeypatch):
    def refresh():
        raise StorageError(Fault("s3://bucket", "no answer", "wait"))

    monkeypatch.setattr(driver, "_open", lambda job: SimpleNamespace(refresh=refresh))
    assert not driver._has_ended(JOB)


def test_a_verdict_is_waited_for_while_the_store_is_out_of_reach(events, verdicts):
    verdicts += [StorageError(Fault("s3://bucket", "no answer", "wait"))] * 2 + [LOST]
    assert driver.judge(JOB, 0, 137, Evidence()) == LOST
    assert events == ["10 s", "20 s"]


@pytest.mark.parametrize("code", [FINISHED, NEVER])
def test_ranks_that_wrote_their_end_need_no_verdict(events, verdicts, code):
    verdicts.append(StorageError(Fault("s3://bucket", "no answer", "wait")))
    assert not driver.judge(JOB, 0, code, Evidence()).again
    assert events == []


FREE = {"a": {"CPU": 1.0}, "b": {"CPU": 3.0}}


@pytest.mark.parametrize(
    ("free", "bounds", "nodes"),
    [(FREE, (1, 8), 4), (FREE, (1, 2), 2), ({}, (1, 2), 1), (FREE, (5, 8), 5)],
)
def test_a_job_takes_what_is_free_within_its_bounds(free, bounds, nodes):
    job = Job("root", "run", "s1", "j", "module", bounds, 1, {"CPU": 1.0}, "PACK", {})
    assert job.nodes_in(free) == nodes


ONE, BOTH = {"a": {"CPU": 1.0}}, {"a": {"CPU": 1.0}, "b": {"CPU": 1.0}}
BUSY = {"a": {"CPU": 1.0}, "b": {"CPU": 0.0}}


@pytest.mark.parametrize(
    ("had", "looks", "nodes"),
    [
        ((), [BUSY], 1),
        (("a", "b"), [BUSY, BUSY, BOTH], 2),
        (("a", "b"), [BUSY, ONE], 1),  # b is drained, or lost
        (None, [ONE, BUSY, BOTH], 2),  # Ray gave up starting the ranks, on nodes that nobody knows
    ],
)
def test_what_the_last_attempt_had_is_waited_for_where_it_can_come_back(monkeypatch, had, looks, nodes):
    seen = list(looks)
    monkeypatch.setattr(driver, "free_now", lambda job: seen.pop(0))
    monkeypatch.setattr(driver, "time", clock([]))
    assert driver.nodes_to_use(JOB, had) == nodes
    assert not seen


def test_what_others_took_meanwhile_is_not_waited_for_for_ever(monkeypatch):
    monkeypatch.setattr(driver, "free_now", lambda job: BUSY)
    monkeypatch.setattr(driver, "_FREED_S", 0.0)
    monkeypatch.setattr(driver, "time", clock([]))
    assert driver.nodes_to_use(JOB, ("a", "b")) == 1


class Cluster:
    """What the driver asks of Ray, without one: the attempt's actor is an object here, and placing is a function."""

    def __init__(self, place, monkeypatch, dead=()):
        self.dead, self.record = dead, None
        monkeypatch.setattr(driver, "ray", self)
        monkeypatch.setattr(driver, "NodeAffinitySchedulingStrategy", lambda node, soft: None)
        monkeypatch.setattr(driver, "_place", lambda job, restart, ranks, record: place(record._of))
        monkeypatch.setattr(driver, "_mine", lambda job, restart: None)
        monkeypatch.setattr(driver, "looked_for", lambda growth, most, look, notify: contextlib.nullcontext())

    def remote(self, kind):
        return SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda ranks: Actor(kind(ranks))))

    def get_runtime_context(self):
        return SimpleNamespace(get_node_id=lambda: "head")

    def get(self, value):
        if isinstance(value, Exception):
            raise value
        return value

    def nodes(self):
        return [{"NodeID": node, "NodeManagerAddress": "10.0.0.1", "Alive": False} for node in self.dead]


class Actor:
    """Methods of an object, called as those of an actor."""

    def __init__(self, of):
        self._of = of

    def __getattr__(self, name):
        return SimpleNamespace(remote=getattr(self._of, name))


def placed(*left, then=None):
    """Two ranks on the nodes a and b, of which these leave, before placing them fails so."""

    def place(attempt: Attempt):
        attempt.place(0, "a")
        attempt.place(1, "b")
        for rank in left:
            attempt.report(rank)
        if then is not None:
            raise then

    return place


def test_an_attempt_has_the_highest_code_and_the_line_of_the_first_that_failed(monkeypatch):
    Cluster(placed(Left(1, 1, "ValueError: x"), Left(0, COME_BACK)), monkeypatch)
    evidence = Evidence(stderr_tail="rank 1 ends with 'ValueError: x'")
    assert driver.attempt(JOB, 0, 2) == Ended(COME_BACK, evidence, ("a", "b"))


def test_a_drained_node_is_the_reason_of_the_notice(monkeypatch):
    Cluster(placed(Left(0, COME_BACK, drained="n7"), Left(1, COME_BACK)), monkeypatch)
    evidence = driver.attempt(JOB, 0, 2).evidence
    assert (evidence.notice, evidence.proof) == ("preempted", "Ray drains node n7")


def test_a_notice_of_the_driver_itself_has_its_own_reason_unless_a_node_is_drained():
    assert driver.evidence_of([Left(0, COME_BACK)], "there is room") == Evidence(notice="notice", proof="there is room")
    assert driver.evidence_of([Left(0, COME_BACK, drained="n7")], "there is room").notice == "preempted"


def test_a_node_that_ray_has_lost_is_the_cause_where_its_rank_has_not_left(monkeypatch):
    Cluster(placed(Left(0, COME_BACK), then=WorkerGroupError("lost", {1: RuntimeError("x")})), monkeypatch, dead=["b"])
    ended = driver.attempt(JOB, 0, 2)
    assert (ended.code, ended.evidence.cause) == (COME_BACK, "node_lost")
    assert ended.evidence.proof == "Ray lost node b (10.0.0.1)"
    assert ended.evidence.stderr_tail.startswith("Ray Train ends with")


def test_no_rank_that_left_counts_as_killed_with_its_node_and_as_failed_without(monkeypatch):
    failure = WorkerGroupError("lost", {0: RuntimeError("x")})
    Cluster(placed(then=failure), monkeypatch, dead=["a", "b"])
    assert driver.attempt(JOB, 0, 2).code == 137
    monkeypatch.setattr(driver, "_NODE_LOST_S", 0.0)
    Cluster(placed(then=failure), monkeypatch)
    assert driver.attempt(JOB, 0, 2).code == FAILED


def test_ranks_that_ray_could_not_start_in_time_are_no_attempt(monkeypatch):
    Cluster(placed(then=ControllerError(WorkerGroupStartupTimeoutError(2))), monkeypatch)
    assert driver.attempt(JOB, 0, 2) is None


def test_a_lost_controller_is_a_failure_like_others_although_the_attempts_actor_is_lost_too(monkeypatch):
    monkeypatch.setattr(Attempt, "all_left", lambda self: RayActorError())
    Cluster(placed(Left(0, COME_BACK), then=RayActorError()), monkeypatch)
    assert driver.attempt(JOB, 0, 2) == Ended(FAILED, Evidence(stderr_tail=driver._last_line(RayActorError())))


def test_the_end_that_ranks_write_after_a_lost_worker_is_waited_for(events, monkeypatch):
    ends = [SimpleNamespace(ended=None), SimpleNamespace(ended="notice")]
    monkeypatch.setattr(driver, "_mine", lambda job, restart: ends.pop(0))
    driver._wait_for_end(JOB, 0)
    assert events == ["1 s"]
    assert not ends


def test_the_arguments_of_the_job_are_read_as_they_are_sent(monkeypatch):
    seen = []
    monkeypatch.setattr(driver.ray, "init", lambda **_: None)
    monkeypatch.setattr(driver, "supervise", lambda job: seen.append(job) or 5)
    given = {"root": "/r", "run": "a", "submit": "s", "job": "j", "module": "m", "nodes": "1..2", "placement": "PACK"}
    given |= {"resources": '{"CPU": 2.0}', "labels": '{"pool": "spot"}', "ranks-per-node": "3"}
    assert driver.main([word for name, value in given.items() for word in (f"--{name}", value)]) == 5
    assert seen == [Job("/r", "a", "s", "j", "m", (1, 2), 3, {"CPU": 2.0}, "PACK", {"pool": "spot"})]
