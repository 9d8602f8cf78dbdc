import pytest

from gmml_cluster.errors import Fenced, StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.entries import Entry, decode, slot_name
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Draft, Log, check
from tests.unit.run.memory import MemoryStore, lost


@pytest.fixture
def store():
    store = MemoryStore()
    Log(store).append(lambda history: Draft("open", None, {"spec": "s"}, run="r"))
    return store


def note(history):
    return Draft("note", None, {"text": "x"})


def test_slots_are_dense_and_an_entry_is_read_as_it_was_written(store):
    log = Log(store)
    entries = [log.append(note) for _ in range(3)]
    assert [entry.slot for entry in entries] == [1, 2, 3]
    assert list(log.read(1)) == entries
    assert {entry.run for entry in log.read()} == {"r"}


def test_appenders_that_do_not_know_of_each_other_take_different_slots(store):
    first, second = Log(store), Log(store)
    first.refresh(), second.refresh()
    assert [log.append(note).slot for log in (first, second, first)] == [1, 2, 3]


def test_an_entry_whose_reply_was_lost_is_ours_and_is_there_once(store):
    entry = Log(store.view(after=lost(0))).append(note)
    assert [found.token for found in Log(store).read(1)] == [entry.token]


def test_an_open_whose_reply_was_lost_is_there_once_whatever_others_have_appended_since():
    """Found by the simulation: an attempt had claimed by then, and the reader jumped to the `sum` of its claim."""
    store = MemoryStore()

    def after(method, name):
        if method == "create":
            log = Log(store)
            token = protocol.submit(log, launcher="local", code="c", bounds={})
            protocol.claim(log, submit=token, job="j", restart=0, topology={}, machine={})
            raise StorageError(f"{name}: no answer")

    Log(store.view(after=after)).append(lambda history: Draft("open", None, {}, run="r"))
    assert [entry.kind for entry in Log(store).read()] == ["open", "submit", "claim"]


def test_an_open_that_was_removed_before_its_writer_looked_is_not_written_again():
    """Found by the simulation: a submission that stood still brought a run back that a person had deleted."""
    store = MemoryStore()

    def after(method, name):
        if method == "create":
            store.objects.clear()

    with pytest.raises(Fenced, match="was removed"):
        Log(store.view(after=after)).append(lambda history: Draft("open", None, {}, run="r"))
    assert store.objects == {}


def test_a_create_that_failed_has_used_its_time_and_is_not_sent_again(store):
    calls = []

    def before(method, name):
        if method == "create":
            calls.append(name)
            raise StorageError("no answer")

    with pytest.raises(StorageError, match="no answer"):
        Log(store.view(before=before)).append(note)
    assert calls == [slot_name(1)]
    assert len(list(Log(store).read())) == 1


def test_the_entry_is_made_again_for_each_slot(store):
    other = Log(store)
    seen = []

    def make(history):
        seen.append(history.slots)
        if len(seen) == 1:
            other.append(note)
        return note(history)

    assert Log(store).append(make).slot == 2
    assert seen == [1, 2]


def test_another_runs_entry_fences(store):
    log = Log(store)
    log.refresh()
    store.create(slot_name(1), Entry(1, "note", None, "another", "t", 0.0).encode())
    with pytest.raises(Fenced, match="another run"):
        log.append(note)


def test_a_removed_run_takes_no_more_entries(store):
    log = Log(store)
    log.append(note)
    store.delete([slot_name(1), slot_name(0)])
    with pytest.raises(Fenced, match="is removed"):
        log.append(note)
    assert store.list_objects() == []


def test_an_empty_log_takes_only_an_open():
    with pytest.raises(Fenced, match="its log is empty"):
        Log(MemoryStore()).append(note)


def test_a_reader_needs_only_the_tail(store):
    log = Log(store)
    for _ in range(20):
        log.append(note)
    log.append(lambda history: Draft("claim", 1, {"submit": "s", "job": "j", "restart": 0, "topology": {}}))
    log.append(note)
    read = []
    reader = Log(store.view(before=lambda method, name: read.append(name) if method == "get" else None))
    assert reader.refresh() == log.refresh()
    assert set(read) == {slot_name(slot) for slot in (21, 22, 23)}


def test_a_sum_of_another_version_is_passed_over(store, monkeypatch):
    log = Log(store)
    monkeypatch.setattr("gmml_cluster.run.history.VERSION", 99)
    log.append(lambda history: Draft("claim", 1, {"submit": "s", "job": "j", "restart": 0, "topology": {}}))
    monkeypatch.undo()
    assert Log(store).refresh().last_attempt == 1


def test_a_claim_of_an_older_version_has_its_topology_under_the_name_layout(store):
    Log(store).append(
        lambda history: Draft("claim", 1, {"submit": "s", "job": "j", "restart": 0, "layout": {"ranks": 2}})
    )
    assert Log(store).refresh().attempts[0].topology == {"ranks": 2}


def test_check_names_a_slot_whose_sum_is_wrong(store):
    log = Log(store)
    log.append(lambda history: Draft("claim", 1, {"submit": "s", "job": "j", "restart": 0, "topology": {}}))
    assert check(log) == []
    wrong = History(slots=1, run="r", last_attempt=7).to_sum()
    entry = decode(store.get(slot_name(1)), "")
    store.put(slot_name(1), Entry(1, "claim", 1, "r", "t", 0.0, {**entry.fields, "sum": wrong}).encode())
    assert len(check(Log(store))) == 1


def test_check_names_every_missing_slot_below_the_last(store):
    log = Log(store)
    for _ in range(6):
        log.append(note)
    store.delete([slot_name(2), slot_name(4)])
    faults = check(Log(store))
    assert [fault.split(": ")[0] for fault in faults] == [f"{store.url}/{slot_name(slot)}" for slot in (2, 4)]
    assert "is missing, though slots up to 6 exist; restore it" in faults[0]


def test_check_finds_no_hole_in_a_log_that_grows_meanwhile(store):
    def grow(method, name):
        if method == "list" and len(store.objects) < 4:
            Log(store).append(note)

    assert check(Log(store.view(after=grow))) == []
    assert len(store.objects) > 1


def test_nothing_new_costs_one_request(store):
    calls = []
    log = Log(store.view(before=lambda method, name: calls.append(method)))
    log.refresh()
    calls.clear()
    log.refresh()
    assert calls == ["get"]


@pytest.mark.parametrize("damage", [lambda data: data[:-9], lambda data: b"\xff" + data[1:], lambda data: b""])
def test_a_slot_that_comes_back_damaged_once_is_read_again(store, monkeypatch, damage):
    monkeypatch.setattr("gmml_cluster.store.verified.sleep", lambda seconds: None)
    entry = Log(store).append(note)
    get, seen = MemoryStore.get, []

    def damaged_once(self, name, *span):
        seen.append(name)
        data = get(self, name, *span)
        return damage(data) if name == slot_name(1) and seen.count(name) == 1 else data

    monkeypatch.setattr(MemoryStore, "get", damaged_once)
    assert list(Log(store).read(1)) == [entry]


def test_a_damaged_slot_is_reported_by_name(store, monkeypatch):
    monkeypatch.setattr("gmml_cluster.store.verified.sleep", lambda seconds: None)
    store.put(slot_name(1), b"{}")
    with pytest.raises(StorageError, match=r"log/00000001\.json: is no log entry"):
        Log(store).refresh()
