import os
import time

import pytest

import gmml_cluster
from gmml_cluster.errors import CheckpointError, Fenced, StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft, Log, check
from gmml_cluster.run.saving.retention import FORGOTTEN_S, discard_parts, orphans, past_starts, retire, to_drop
from gmml_cluster.store.open import open_store
from gmml_cluster.store.posix import TEMPORARY
from tests.unit.run.memory import MemoryStore


@pytest.fixture
def store():
    store = MemoryStore()
    Log(store).append(lambda history: Draft("open", None, {}, run="r"))
    return store


@pytest.fixture
def log(store):
    return Log(store)


def submit(log, **changed):
    return protocol.submit(log, launcher="local", code="c", bounds={"nodes": 1}, changed=changed)


def claim(log, token, restart=0, **more):
    return protocol.claim(log, submit=token, job="j", restart=restart, topology={"ranks": 2}, machine={}, **more)


def commit(log, attempt, step):
    protocol.commit(log, attempt, step=step, manifest=f"m{step}", size=10, seconds=1.0)


def started(log):
    return claim(log, submit(log)).attempt


def test_claims_are_numbered_from_one_and_carry_what_was_changed(log):
    assert claim(log, submit(log, checkpoint=[1, 2])).changed == {"checkpoint": [1, 2]}
    second = claim(log, submit(log))
    assert (second.attempt, second.changed, second.commits, second.pin) == (2, {}, (), None)


def test_every_attempt_is_logged_with_the_version_of_the_code_that_it_runs(log, monkeypatch):
    claim(log, submit(log))
    monkeypatch.setattr(protocol, "__version__", "9.9")
    claim(log, submit(log))
    versions = [entry.fields["gmml_version"] for entry in log.read() if entry.kind == "claim"]
    assert versions == [gmml_cluster.__version__, "9.9"]


def test_a_start_that_a_later_start_of_its_job_overtook_claims_nothing(log):
    """Found by the simulation: ranks on a node that the scheduler had lost sight of fenced those that replaced them."""
    token = submit(log)
    claim(log, token, restart=1)
    with pytest.raises(Fenced, match="start 1 of the job has claimed, and this is start 0"):
        claim(log, token, restart=0)
    assert claim(log, token, restart=2).attempt == 2
    assert claim(log, submit(log), restart=0).attempt == 3


@pytest.mark.parametrize("reason", ["later submit", "stopped", "finished"])
def test_who_has_no_right_claims_nothing(log, reason):
    token = submit(log)
    if reason == "later submit":
        submit(log)
    elif reason == "stopped":
        protocol.stop(log, "cancelled by a person")
    else:
        protocol.end(log, claim(log, token).attempt, "finished", step=9)
    before = log.refresh()
    with pytest.raises(Fenced, match=reason):
        claim(log, token)
    assert log.refresh() == before


def test_the_right_to_claim_is_judged_again_at_each_slot(store, log):
    token = submit(log)
    calls = []

    def before(method, name):
        if method == "create" and not calls:
            calls.append(name)
            submit(log)

    with pytest.raises(Fenced, match="later submit"):
        claim(Log(store.view(before=before)), token)
    assert log.refresh().last_attempt == 0


def test_a_submit_lifts_a_stop(log):
    submit(log)
    protocol.stop(log, "cancelled")
    protocol.stop(log, "again")
    assert log.refresh().stopped == "cancelled"
    assert claim(log, submit(log)).attempt == 1


def test_a_stop_fences_nobody(log):
    attempt = started(log)
    protocol.stop(log, "cancelled")
    assert protocol.look(log, attempt).stopped == "cancelled"
    commit(log, attempt, 5)
    assert protocol.end(log, attempt, "cancelled", step=5) == "cancelled"


@pytest.mark.parametrize(
    "say",
    [
        lambda log: commit(log, 1, 5),
        lambda log: protocol.begin(log, 1, resumed=None, step=0, micro=8, start_s=1.0, load_s=1.0),
        lambda log: protocol.pin(log, 1, {}),
        lambda log: protocol.end(log, 1, "error"),
        lambda log: protocol.resolve_cause(log, 1, "preempted", "proof"),
        lambda log: protocol.look(log, 1),
    ],
)
def test_a_fenced_attempt_says_nothing(log, say):
    started(log)
    started(log)
    before = log.refresh()
    with pytest.raises(Fenced, match="attempt 2 has claimed"):
        say(log)
    assert log.refresh() == before


def test_a_claim_ends_older_attempts_by_what_can_be_proved(log):
    started(log), started(log)
    token = submit(log)
    claim(log, token, proofs=lambda attempt: ("node_lost", "sacct said so") if attempt == 2 else None)
    assert [(a.cause, a.details["proof"]) for a in log.refresh().attempts[1:2]] == [("node_lost", "sacct said so")]
    assert [a.cause for a in log.refresh().attempts] == ["lost", "node_lost", None]


def test_the_first_end_counts(log):
    attempt = started(log)
    assert protocol.end(log, attempt, "notice", step=3) == "notice"
    assert protocol.end(log, attempt, "error") == "notice"
    assert [entry.kind for entry in log.read()].count("end") == 1


def test_a_cause_resolves_a_notice_once(log):
    attempt = started(log)
    protocol.resolve_cause(log, attempt, "preempted", "too early")
    protocol.end(log, attempt, "notice")
    protocol.resolve_cause(log, attempt, "preempted", "DUE TO PREEMPTION")
    protocol.resolve_cause(log, attempt, "time_limit", "late")
    assert (log.refresh().attempts[0].ended, log.refresh().attempts[0].cause) == ("notice", "preempted")


def test_a_cause_that_no_reader_knows_is_refused(log):
    with pytest.raises(ValueError, match="sunspots"):
        protocol.end(log, started(log), "sunspots")


def test_a_later_pin_replaces_the_corpora_alone_and_only_where_it_says_so(log):
    first = started(log)
    protocol.pin(log, first, {"steps": 10, "corpora": "a"})
    protocol.repin(log, first, "b", 3)
    assert claim(log, submit(log)).pin == {"steps": 10, "corpora": "b"}
    assert check(log) == []


def test_the_first_pin_holds(log):
    first, second = started(log), None
    assert protocol.pin(log, first, {"steps": 10}) == {"steps": 10}
    second = started(log)
    assert protocol.pin(log, second, {"steps": 20}) == {"steps": 10}
    assert claim(log, submit(log)).pin == {"steps": 10}


def test_a_resume_takes_the_latest_commit_that_is_intact(log):
    attempt = started(log)
    for step in (1, 2, 3):
        commit(log, attempt, step)
    mine = claim(log, submit(log))

    def holds(commit):
        if commit.step == 3:
            raise CheckpointError("damaged")

    assert protocol.resume(log, mine, holds).step == 2


def test_a_resume_that_finds_damage_looks_whether_it_is_fenced(log):
    attempt = started(log)
    commit(log, attempt, 1)
    mine = claim(log, submit(log))

    def dropped_by_a_later_one(commit):
        started(log)
        raise CheckpointError("gone")

    with pytest.raises(Fenced):
        protocol.resume(log, mine, dropped_by_a_later_one)


def test_where_every_commit_is_damaged_nothing_silently_starts_from_scratch(log):
    commit(log, started(log), 1)
    mine = claim(log, submit(log))

    def holds(commit):
        raise CheckpointError("damaged")

    with pytest.raises(CheckpointError, match="every commit is damaged"):
        protocol.resume(log, mine, holds)


def test_a_job_that_never_claimed_is_reported(log):
    token = submit(log)
    protocol.queued(log, token, "17")
    protocol.start_failed(log, token, message="no GPU")
    assert (log.refresh().submit.job, log.refresh().submit.failed) == ("17", "no GPU")
    submit(log)
    protocol.start_failed(log, token, message="late")
    assert log.refresh().submit.failed is None


def test_retention_keeps_the_latest_and_every_nth(log):
    attempt = started(log)
    for step in (9, 19, 29, 39, 49):
        commit(log, attempt, step)
    history = log.refresh()
    assert [c.step for c in to_drop(history, keep=2, keep_every=None)] == [9, 19, 29]
    assert [c.step for c in to_drop(history, keep=2, keep_every=20)] == [9, 29]
    assert to_drop(history, keep=9, keep_every=None) == ()


def test_what_is_dropped_is_deleted_with_the_orphans_of_older_attempts(store, log):
    first = started(log)
    commit(log, first, 9)
    second = started(log)
    commit(log, second, 19)
    folders = ["00000009-0001", "00000015-0001", "00000012-0002", "00000019-0002", "00000029-0002", "00000029-0003"]
    for folder in folders:
        store.put(f"checkpoints/{folder}/manifest.json", b"")
    retire(store, log, second, keep=1, keep_every=None)
    left = [found.name.split("/")[1] for found in store.list_objects("checkpoints/")]
    assert left == ["00000019-0002", "00000029-0002", "00000029-0003"]
    assert [c.step for c in log.refresh().commits] == [19]


def test_a_fenced_attempt_deletes_nothing(store, log):
    first = started(log)
    commit(log, first, 9)
    commit(log, first, 19)
    store.put("checkpoints/00000009-0001/manifest.json", b"")
    started(log)
    with pytest.raises(Fenced):
        retire(store, log, first, keep=1, keep_every=None)
    assert store.list_objects("checkpoints/")
    assert list(orphans(log.refresh(), 2, ["elsewhere/x"])) == []


def test_sums_stay_true_and_bounded_over_many_attempts(log):
    for _ in range(60):
        attempt = started(log)
        commit(log, attempt, attempt)
        protocol.end(log, attempt, "error", message="x" * 5000)
    history = log.refresh()
    assert (len(history.attempts), history.older, history.last_attempt) == (50, {"error": 10}, 60)
    assert check(log) == []


def test_a_claim_that_fails_after_its_slot_has_reported_its_number(store, log):
    token = submit(log)

    def down_once_claimed(method, name):
        if method == "get" and heard:
            raise StorageError("no answer")

    heard = []
    unlucky = Log(store.view(before=down_once_claimed))
    with pytest.raises(StorageError):
        protocol.claim(unlucky, submit=token, job="1", restart=0, topology={}, machine={}, claimed=heard.append)
    assert heard == [log.refresh().last_attempt] == [1]


def test_a_killed_writer_s_file_goes_by_the_rule_for_orphans(tmp_path):
    store = open_store(tmp_path / "a")
    log = Log(store)
    log.append(lambda history: Draft("open", None, {}, run="r"))
    second = started(log) and started(log)
    commit(log, second, 19)
    for folder in ("00000009-0001", "00000019-0002", "00000029-0002"):
        (tmp_path / "a/checkpoints" / folder).mkdir(parents=True)
        (tmp_path / "a/checkpoints" / folder / f"{TEMPORARY}1").touch()
    retire(store, log, second, keep=1, keep_every=None)
    left = [write.name.split("/")[1] for write in store.unfinished()]
    assert left == ["00000019-0002", "00000029-0002"]


def test_address_files_of_starts_that_are_over_go_and_those_of_later_starts_stay(store, log):
    died = submit(log)  # its ranks died before one of them claimed
    old = submit(log)
    claim(log, old)
    token = submit(log)
    attempt = protocol.claim(log, submit=token, job="host-1:a:b", restart=3, topology={}, machine={}).attempt
    over = [
        f"{died}-j-0",
        f"{died}-j-1",
        f"{old}-j-0",
        f"{old}-other-5",
        f"{token}-host-1:a:b-2",
        f"{token}-host-1:a:b-3",
        f"{token}-2:a:b-0",  # of the job that this one succeeds
    ]
    later = [f"{token}-host-1:a:b-4", f"{token}-3:a:b-5", "unknown-submit-j-0"]
    for start in over + later:
        store.put(f"attempts/rendezvous/{start}.json", b"")
    commit(log, attempt, 9)
    retire(store, log, attempt, keep=1, keep_every=None)
    left = [found.name.split("/")[2] for found in store.list_objects("attempts/rendezvous/")]
    assert left == sorted(f"{start}.json" for start in later)


def test_a_fenced_attempt_knows_of_no_later_start(store, log):
    first = submit(log)
    history = log.refresh()
    second = submit(log)
    assert list(past_starts(history, 0, [f"attempts/rendezvous/{token}-j-0.json" for token in (first, second)])) == []


def test_a_write_to_the_log_that_was_killed_long_ago_goes_and_one_under_way_stays(tmp_path):
    store = open_store(tmp_path / "a")
    log = Log(store)
    log.append(lambda history: Draft("open", None, {}, run="r"))
    attempt = started(log)
    commit(log, attempt, 9)
    for name, age_s in (("old", FORGOTTEN_S + 60), ("new", 0)):
        path = tmp_path / "a/log" / f"{TEMPORARY}{name}"
        path.touch()
        os.utime(path, times=(time.time() - age_s,) * 2)
    retire(store, log, attempt, keep=1, keep_every=None)
    assert [write.name for write in store.unfinished()] == [f"log/{TEMPORARY}new"]


def test_a_part_that_a_killed_rank_was_writing_goes_and_that_of_this_attempt_stays(tmp_path):
    store = open_store(tmp_path / "a")
    log = Log(store)
    log.append(lambda history: Draft("open", None, {}, run="r"))
    first, second = started(log), started(log)
    for attempt in (first, second):
        folder = tmp_path / f"a/attempts/{attempt:04d}"
        folder.mkdir(parents=True)
        (folder / f"{TEMPORARY}1").touch()
        store.put(f"attempts/{attempt:04d}/metrics-0.jsonl", b"")
    with pytest.raises(Fenced):
        discard_parts(store, log, first)
    discard_parts(store, log, second)
    assert [write.name for write in store.unfinished()] == [f"attempts/{second:04d}/{TEMPORARY}1"]
    assert len(store.list_objects("attempts/")) == 2
