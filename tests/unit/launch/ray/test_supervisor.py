"""The driver's decisions, without Ray: how often it makes attempts, with how many nodes, and what it says of each."""

import contextlib
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.launch import notify
from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.after.verdict import Verdict
from gmml_cluster.launch.ray import supervisor
from gmml_cluster.launch.ray.job import DriverJob
from gmml_cluster.launch.ray.supervisor import AttemptLost, Ended, Unplaced
from gmml_cluster.launch.ray.worker import AttemptRecord, Left
from gmml_cluster.run.codes import COME_BACK, FAILED, FINISHED, NEVER
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.run.root import SPEC, create_run
from gmml_cluster.spec.loading.validate import parse_job, to_yaml
from gmml_cluster.store.open import open_store
from tests.fixtures.submissions import TINY

JOB = DriverJob("root", "run", "s1", "j", "module", (1, 2), 1, {"CPU": 1.0}, "SPREAD", {})
LOST = Verdict(True, "lost")


def clock(pauses):
    """The driver's `time` alone, whose pauses are noted and last no time: `time.sleep` itself is every thread's."""
    return SimpleNamespace(sleep=lambda seconds: pauses.append(f"{seconds:g} s"), monotonic=time.monotonic)


@pytest.fixture
def events(monkeypatch):
    """Pauses, which last no time."""
    found = []
    monkeypatch.setattr(supervisor, "time", clock(found))
    monkeypatch.setattr(supervisor, "nodes_to_use", lambda job, cluster, had, avoided: 2)
    monkeypatch.setattr(supervisor, "avoided_nodes", lambda job, cluster: ())
    monkeypatch.setattr(supervisor, "_open", lambda job: None)
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

    monkeypatch.setattr(supervisor, "judge_by_log", judged)
    return found


@pytest.fixture
def attempts(events, monkeypatch):
    """What each attempt returns; its number goes to the events."""
    found = []
    monkeypatch.setattr(
        supervisor, "attempt", lambda job, cluster, restart, nodes, avoided: events.append(restart) or found.pop(0)
    )
    return found


KILLED = Ended(137, Evidence())


def test_it_waits_as_the_log_says_and_leaves_with_the_last_code(events, attempts, verdicts):
    attempts += [KILLED] * 3
    verdicts += [LOST, Verdict(True, "lost", 20.0), Verdict(False, "lost")]
    assert supervisor.supervise(JOB, None) == 137
    assert events == [0, "0 s", 1, "20 s", 2]


def test_ranks_that_found_no_room_are_asked_for_again_without_being_counted(events, attempts, verdicts, monkeypatch):
    monkeypatch.setattr(supervisor, "_is_over", lambda job: False)
    attempts += [None, None, Ended(FINISHED, Evidence())]
    verdicts += [Verdict(False, "finished", finished=True)]
    assert supervisor.supervise(JOB, None) == FINISHED
    assert events == [0, 0, 0]


def test_a_driver_whose_ranks_left_with_0_fails_where_the_run_has_not_finished(attempts, verdicts):
    attempts.append(Ended(FINISHED, Evidence()))
    verdicts.append(Verdict(False, "lost"))
    assert supervisor.supervise(JOB, None) == FAILED


def test_after_ranks_that_found_no_room_nobody_knows_where_they_were_to_be(attempts, verdicts, monkeypatch):
    had = []
    monkeypatch.setattr(supervisor, "_is_over", lambda job: False)
    monkeypatch.setattr(supervisor, "nodes_to_use", lambda job, cluster, places, avoided: had.append(places) or 2)
    attempts += [None, Ended(137, Evidence(), ("a", "b")), Ended(FINISHED, Evidence())]
    verdicts += [LOST, Verdict(False, "finished")]
    supervisor.supervise(JOB, None)
    assert had == [(), None, ("a", "b")]


def test_whom_the_job_names_has_the_message_before_the_driver_leaves(events, attempts, verdicts, tmp_path, monkeypatch):
    monkeypatch.setattr(notify, "LONGEST_S", 600.0)
    script, heard = "import sys; open(sys.argv[1], 'w').write(sys.stdin.read())", tmp_path / "heard"
    named = parse_job({**TINY, "notify": {"command": [sys.executable, "-c", script, str(heard)]}})
    run = create_run(str(tmp_path / "runs"), "mine", {SPEC: to_yaml(named).encode()}, {"code": "0"})
    run.log.append(lambda _: Draft("stop", None, {"reason": "gmml cancel"}))
    attempts.append(Ended(NEVER, Evidence()))
    verdicts.append(Verdict(False, "cancelled"))
    assert supervisor.supervise(replace(JOB, root=str(tmp_path / "runs"), run="mine"), None) == NEVER
    assert heard.read_text().startswith("mine was stopped: gmml cancel.")


def test_nobody_asks_for_room_for_a_run_that_is_over(events, attempts, monkeypatch):
    monkeypatch.setattr(supervisor, "_is_over", lambda job: True)
    attempts.append(None)
    assert supervisor.supervise(JOB, None) == NEVER


def test_a_run_whose_log_cannot_be_read_is_not_taken_for_over(monkeypatch):
    def refresh():
        raise StorageError(Fault("s3://bucket", "no answer", "wait"))

    monkeypatch.setattr(supervisor, "_open", lambda job: SimpleNamespace(refresh=refresh))
    assert not supervisor._is_over(JOB)


@pytest.mark.parametrize(
    ("history", "over"),
    [
        ({"submitted": "s1", "stopped": None, "finished": False}, False),
        ({"submitted": "s1", "stopped": "cancelled by a person", "finished": False}, True),
        ({"submitted": "s1", "stopped": None, "finished": True}, True),
        ({"submitted": "s2", "stopped": None, "finished": False}, True),
    ],
)
def test_a_run_that_was_submitted_again_is_over_for_the_driver_of_the_earlier_submit(monkeypatch, history, over):
    log = SimpleNamespace(refresh=lambda: SimpleNamespace(**history))
    monkeypatch.setattr(supervisor, "_open", lambda job: log)
    assert supervisor._is_over(JOB) is over


def test_a_verdict_is_waited_for_while_the_store_is_out_of_reach(events, verdicts):
    verdicts += [StorageError(Fault("s3://bucket", "no answer", "wait"))] * 2 + [LOST]
    assert supervisor.judge(JOB, 0, 137, Evidence()) == LOST
    assert events == ["10 s", "20 s"]


@pytest.mark.parametrize("code", [FINISHED, NEVER])
def test_ranks_that_wrote_their_end_need_no_verdict(events, verdicts, code):
    verdicts.append(StorageError(Fault("s3://bucket", "no answer", "wait")))
    assert not supervisor.judge(JOB, 0, code, Evidence()).again
    assert events == []


FREE = {"a": {"CPU": 1.0}, "b": {"CPU": 3.0}}


@pytest.mark.parametrize(
    ("free", "bounds", "nodes"),
    [(FREE, (1, 8), 4), (FREE, (1, 2), 2), ({}, (1, 2), 1), (FREE, (5, 8), 5)],
)
def test_a_job_takes_what_is_free_within_its_bounds(free, bounds, nodes):
    job = DriverJob("root", "run", "s1", "j", "module", bounds, 1, {"CPU": 1.0}, "PACK", {})
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
    cluster = SimpleNamespace(free=lambda job, avoided: seen.pop(0))
    monkeypatch.setattr(supervisor, "time", clock([]))
    assert supervisor.nodes_to_use(JOB, cluster, had) == nodes
    assert not seen


def test_what_others_took_meanwhile_is_not_waited_for_for_ever(monkeypatch):
    cluster = SimpleNamespace(free=lambda job, avoided: BUSY)
    monkeypatch.setattr(supervisor, "_FREED_S", 0.0)
    monkeypatch.setattr(supervisor, "time", clock([]))
    assert supervisor.nodes_to_use(JOB, cluster, ("a", "b")) == 1


@pytest.fixture
def excluded(tmp_path, monkeypatch):
    """A run whose log excludes a node."""
    log = Log(open_store(tmp_path / "a"))
    log.append(lambda history: Draft("open", None, {}, run="r"))
    monkeypatch.setattr(supervisor, "_open", lambda job: log)
    assert supervisor.avoided_nodes(JOB, None) == ()
    log.append(lambda history: Draft("exclude", None, {"node": "10.0.0.1", "reason": "it failed twice"}))


@pytest.mark.parametrize(("left", "avoided"), [(ONE, ("10.0.0.1",)), ({}, ())])
def test_a_node_that_failed_is_avoided_where_the_others_can_hold_the_run(excluded, left, avoided):
    asked = []
    cluster = SimpleNamespace(capacity=lambda job, avoided: asked.append(avoided) or left)
    assert supervisor.avoided_nodes(JOB, cluster) == avoided
    assert asked == [("10.0.0.1",)]


class Cluster:
    """What the driver asks of Ray, without one: placing is a function."""

    def __init__(self, place, monkeypatch, dead=()):
        self._place, self._dead = place, dead
        monkeypatch.setattr(supervisor, "_mine", lambda job, restart: None)
        monkeypatch.setattr(supervisor, "looked_for", lambda growth, most, look, end: contextlib.nullcontext())

    def record(self, ranks):
        return AttemptRecord(ranks)

    def place(self, job, restart, ranks, record, avoided):
        self._place(record)

    def lost(self):
        return dict.fromkeys(self._dead, "10.0.0.1")


def placed(*left, then=None):
    """Two ranks on the nodes a and b, of which these leave, before placing them fails so."""

    def place(attempt: AttemptRecord):
        attempt.place(0, "a")
        attempt.place(1, "b")
        for rank in left:
            attempt.report(rank)
        if then is not None:
            raise then

    return place


def test_an_attempt_has_the_highest_code_and_the_line_of_the_first_that_failed(monkeypatch):
    cluster = Cluster(placed(Left(1, 1, "ValueError: x"), Left(0, COME_BACK)), monkeypatch)
    evidence = Evidence(stderr_tail="rank 1 ends with 'ValueError: x'")
    assert supervisor.attempt(JOB, cluster, 0, 2) == Ended(COME_BACK, evidence, ("a", "b"))


def test_a_drained_node_is_the_reason_of_the_notice(monkeypatch):
    cluster = Cluster(placed(Left(0, COME_BACK, drained="n7"), Left(1, COME_BACK)), monkeypatch)
    evidence = supervisor.attempt(JOB, cluster, 0, 2).evidence
    assert (evidence.notice, evidence.proof) == ("preempted", "Ray drains node n7")


def test_a_notice_of_the_driver_itself_has_its_own_reason_unless_a_node_is_drained():
    assert supervisor.evidence_of([Left(0, COME_BACK)], "there is room") == Evidence(
        notice="notice", proof="there is room"
    )
    assert supervisor.evidence_of([Left(0, COME_BACK, drained="n7")], "there is room").notice == "preempted"


def test_a_node_that_ray_has_lost_is_the_cause_where_its_rank_has_not_left(monkeypatch):
    cluster = Cluster(placed(Left(0, COME_BACK), then=AttemptLost("Ray says so")), monkeypatch, dead=["b"])
    ended = supervisor.attempt(JOB, cluster, 0, 2)
    assert (ended.code, ended.evidence.cause) == (COME_BACK, "node_lost")
    assert ended.evidence.proof == "Ray lost node b (10.0.0.1)"
    assert (ended.evidence.stderr_tail, ended.evidence.node) == ("Ray says so", "10.0.0.1")


def test_no_rank_that_left_counts_as_killed_with_its_node_and_as_failed_without(monkeypatch):
    failure = AttemptLost("x")
    cluster = Cluster(placed(then=failure), monkeypatch, dead=["a", "b"])
    assert supervisor.attempt(JOB, cluster, 0, 2).code == 137
    monkeypatch.setattr(supervisor, "_NODE_LOST_S", 0.0)
    cluster = Cluster(placed(then=failure), monkeypatch)
    assert supervisor.attempt(JOB, cluster, 0, 2).code == FAILED


def test_ranks_that_ray_could_not_start_in_time_are_no_attempt(monkeypatch):
    cluster = Cluster(placed(then=Unplaced()), monkeypatch)
    assert supervisor.attempt(JOB, cluster, 0, 2) is None


def test_a_lost_controller_is_a_failure_like_others_although_the_attempts_actor_is_lost_too(monkeypatch):
    def all_left(self):
        raise AttemptLost("the actor is lost")

    monkeypatch.setattr(AttemptRecord, "all_left", all_left)
    cluster = Cluster(placed(Left(0, COME_BACK), then=AttemptLost("the controller is lost")), monkeypatch)
    lost = "the controller is lost"
    assert supervisor.attempt(JOB, cluster, 0, 2) == Ended(
        FAILED, Evidence(notice="lost", proof=lost, stderr_tail=lost)
    )


@pytest.mark.parametrize(
    ("left", "explained"),
    [
        ([Left(0, COME_BACK), Left(1, COME_BACK)], (None, "lost", "a worker was killed")),
        ([Left(0, COME_BACK, drained="n7")], (None, "preempted", "Ray drains node n7")),
        ([Left(0, 137, address="10.0.0.2")], ("killed", None, "10.0.0.2, rank 0: signal SIGKILL")),
    ],
    ids=["nothing else explains it", "its node is drained", "a rank was killed"],
)
def test_a_lost_worker_is_why_ranks_left_after_a_notice_unless_more_is_known(monkeypatch, left, explained):
    monkeypatch.setattr(supervisor, "_NODE_LOST_S", 0.0)
    cluster = Cluster(placed(*left, then=AttemptLost("a worker was killed")), monkeypatch)
    evidence = supervisor.attempt(JOB, cluster, 0, 2).evidence
    assert (evidence.cause, evidence.notice, evidence.proof) == explained
    assert evidence.stderr_tail == "a worker was killed"


def test_the_node_of_a_rank_that_was_killed_is_to_blame(monkeypatch):
    cluster = Cluster(placed(Left(1, 137, address="10.0.0.2"), Left(0, COME_BACK)), monkeypatch)
    evidence = supervisor.attempt(JOB, cluster, 0, 2).evidence
    assert (evidence.cause, evidence.node) == ("killed", "10.0.0.2")


def test_a_rank_that_had_to_be_ended_as_it_was_stopped_is_a_hang_of_its_node(monkeypatch):
    cluster = Cluster(placed(Left(0, 1), Left(1, None, address="10.0.0.2", stopped=True)), monkeypatch)
    ended = supervisor.attempt(JOB, cluster, 0, 2)
    assert (ended.code, ended.evidence.cause, ended.evidence.node) == (137, "hang", "10.0.0.2")


def test_the_end_that_ranks_write_after_a_lost_worker_is_waited_for(events, monkeypatch):
    ends = [SimpleNamespace(ended=None), SimpleNamespace(ended="notice")]
    monkeypatch.setattr(supervisor, "_mine", lambda job, restart: ends.pop(0))
    assert supervisor._await_end(JOB, 0, 60.0)
    assert events == ["1 s"]
    assert not ends


@pytest.mark.parametrize(
    ("dead", "comes", "waited", "code"),
    [
        ((), True, [supervisor.LEAVE_S, supervisor.ORPHAN_S], FAILED),
        ((), False, [supervisor.LEAVE_S, supervisor.ORPHAN_S], 137),
        (["b"], False, [supervisor.LEAVE_S], 137),
    ],
    ids=["it is saved slowly", "it never is", "its node is gone"],
)
def test_ranks_that_outlive_their_worker_have_the_time_of_an_orphan_unless_a_node_is_gone(
    monkeypatch, dead, comes, waited, code
):
    limits = []

    def await_end(job, restart, limit_s):
        limits.append(limit_s)
        return comes and limit_s == supervisor.ORPHAN_S

    monkeypatch.setattr(supervisor, "_await_end", await_end)
    monkeypatch.setattr(supervisor, "_NODE_LOST_S", 0.0)
    cluster = Cluster(placed(then=AttemptLost("a worker was killed")), monkeypatch, dead=dead)
    ended = supervisor.attempt(JOB, cluster, 0, 2)
    assert (limits, ended.code) == (waited, code)
