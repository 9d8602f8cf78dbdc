"""The protocol in many interleavings: attempts and persons, lost replies and crashes, on the real code."""

import itertools

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gmml_cluster.errors import CheckpointError
from gmml_cluster.run import protocol
from gmml_cluster.run.entries import decode
from gmml_cluster.run.fold import fold
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Draft, Log, check
from gmml_cluster.run.right_to_claim import refusal
from gmml_cluster.run.saving.retention import retire
from gmml_cluster.store.protocol import NotFound
from tests.unit.run.memory import MemoryStore
from tests.unit.run.scheduler import play

FAULTS = st.sampled_from([""] * 12 + ["lost reply"] * 4 + ["crash before", "crash after"])


def submitted():
    store = MemoryStore()
    log = Log(store)
    log.append(lambda history: Draft("open", None, {}, run="r"))
    return store, protocol.submit(log, launcher="local", code="c", bounds={})


def attempt(token, *, steps=2, cause="finished"):
    """What rank 0 does from claim to end, with a checkpoint a step."""

    def body(store):
        log = Log(store)
        mine = protocol.claim(log, submit=token, job="j", restart=0, topology={}, machine={})

        def holds(commit):
            try:
                store.get(f"{commit.folder}/manifest.json")
            except NotFound as error:
                raise CheckpointError("gone") from error

        resumed = protocol.resume(log, mine, holds)
        first = resumed.step + 1 if resumed else 0
        protocol.begin(log, mine.attempt, resumed=resumed, step=first, micro=8, start_s=0.0, load_s=0.0)
        protocol.pin(log, mine.attempt, {"by": mine.attempt})
        for step in range(first, first + steps):
            store.put(f"checkpoints/{step:08d}-{mine.attempt:04d}/manifest.json", b"m")
            protocol.commit(log, mine.attempt, step=step, manifest="m", size=1, seconds=0.0)
            retire(store, log, mine.attempt, keep=1, keep_every=None)
        stopped = protocol.look(log, mine.attempt).stopped
        protocol.end(log, mine.attempt, "cancelled" if stopped is not None else cause)

    return body


def person_resumes(store):
    token = protocol.submit(Log(store), launcher="local", code="c", bounds={})
    attempt(token)(store)


def person_stops(store):
    protocol.stop(Log(store), "cancelled")


class Invariants:
    """What must hold after every request, whatever happened."""

    def __init__(self, store):
        self.store = store
        self.entries = []
        self.histories = [History()]

    def __call__(self):
        while (data := self.store.objects.get(f"log/{len(self.entries):08d}.json")) is not None:
            entry = decode(data, "")
            self.judge(entry, self.histories[-1])
            self.entries.append(entry)
            self.histories.append(fold(self.histories[-1], entry))
        for commit in self.histories[-1].commits:
            name = f"{commit.folder}/manifest.json"
            assert name in self.store.objects, f"{name} is committed and not dropped, but deleted"

    def judge(self, entry, before):
        assert entry.token not in {other.token for other in self.entries}, "one entry in two slots"
        if entry.kind == "claim":
            assert entry.attempt == before.last_attempt + 1
            assert refusal(before, *(entry.fields[name] for name in ("submit", "job", "restart"))) is None, (
                "claimed without the right"
            )
        elif entry.kind == "end" and entry.fields["cause"] == "lost":
            assert entry.attempt < before.last_attempt
        elif entry.attempt is not None:
            assert entry.attempt == before.last_attempt, "a fenced attempt appended"
        if entry.kind == "begin" and entry.fields["resumed"]:
            resumed = (entry.fields["resumed"]["step"], entry.fields["resumed"]["attempt"])
            live = [(commit.step, commit.attempt) for commit in before.commits]
            assert live[-1] == resumed, "resumed from another than the latest commit"
        if entry.kind == "end":
            assert before.attempt(entry.attempt).ended is None, "a second end"

    def finally_(self):
        self()
        slots = sum(name.startswith("log/") for name in self.store.objects)
        assert slots == len(self.entries), "slots are not dense"
        assert check(Log(self.store)) == []
        assert Log(self.store).refresh() == self.histories[-1]


def explore(bodies, store, schedule):
    invariants = Invariants(store)
    play(store, bodies, schedule, invariants)
    invariants.finally_()
    return invariants


def schedules(processes):
    return st.lists(st.tuples(st.integers(0, processes - 1), FAULTS), max_size=120)


thorough = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@thorough
@given(schedules(2))
def test_two_attempts_of_one_submit(schedule):
    store, token = submitted()
    explore([attempt(token), attempt(token, cause="notice")], store, schedule)


@thorough
@given(schedules(3))
def test_three_attempts_that_come_back(schedule):
    store, token = submitted()
    explore([attempt(token, cause="notice") for _ in range(3)], store, schedule)


@thorough
@given(schedules(4))
def test_attempts_with_a_person_who_stops_and_one_who_resumes(schedule):
    store, token = submitted()
    explore([attempt(token), attempt(token, cause="notice"), person_resumes, person_stops], store, schedule)


def test_after_every_crash_the_next_attempt_takes_over_and_finishes():
    """A crash at each request of an attempt, before and after it acted, alone and while a reply is lost."""
    requests = itertools.count()
    store, token = submitted()
    attempt(token, cause="notice")(store.view(before=lambda method, name: next(requests)))
    for request, fault in itertools.product(range(next(requests) + 1), ("crash before", "crash after", "lost reply")):
        store, token = submitted()
        schedule = [(0, "")] * request + [(0, fault)]
        explore([attempt(token, cause="notice")], store, schedule)
        after = explore([attempt(token)], store, [])
        assert after.histories[-1].finished
        assert all(attempt.ended for attempt in after.histories[-1].attempts)
        assert len(after.histories[-1].commits) == 1


def test_two_claims_in_every_order_of_their_requests():
    """Exhaustive over the first nine requests of two jobs that claim, alike but for which of them makes the first."""
    seen = set()
    for order in itertools.product((0,), *[(0, 1)] * 8):
        store, token = submitted()
        bodies = [claimer(token, job) for job in ("a", "b")]
        final = explore(bodies, store, [(number, "") for number in order])
        seen.add(tuple(entry.fields["job"] for entry in final.entries if entry.kind == "claim"))
    assert seen == {("a", "b"), ("b", "a")}


def claimer(token, job):
    def body(store):
        protocol.claim(Log(store), submit=token, job=job, restart=0, topology={}, machine={})

    return body
