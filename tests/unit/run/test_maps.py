"""Entries of maps: the first of a step holds for all attempts, and files go only when nothing reads them."""

import pytest

from gmml_cluster.errors import Fenced
from gmml_cluster.run.history import from_sum
from gmml_cluster.run.log import Draft, Log, check
from gmml_cluster.run.maps import record_maps
from gmml_cluster.run.saving.retention import retire, unread_maps
from tests.unit.run.memory import MemoryStore
from tests.unit.run.test_protocol import claim, commit, started, submit


@pytest.fixture
def store():
    store = MemoryStore()
    Log(store).append(lambda history: Draft("open", None, {}, run="r"))
    return store


@pytest.fixture
def log(store):
    return Log(store)


def record(log, attempt, step, manifest="m"):
    of = log.refresh().commits[-1]
    return record_maps(log, attempt, step=step, of=of, manifest=manifest, size=5, blocks=2, seconds=1.0)


def test_the_first_maps_of_a_step_hold_for_all_later_attempts(log):
    first = started(log)
    commit(log, first, 9)
    made = record(log, first, 10, "one")
    second = claim(log, submit(log)).attempt
    commit(log, second, 9)
    assert record(log, second, 10, "two") == made
    assert (made.manifest, made.folder) == ("one", "maps/00000009-0001")
    with pytest.raises(Fenced):
        record(log, first, 20)


def test_maps_survive_a_sum_and_come_in_the_order_of_their_steps(log):
    attempt = started(log)
    for step in (9, 4):  # an attempt that resumed from an earlier commit makes what is missing
        commit(log, attempt, step)
        record(log, attempt, step + 1)
    commit(log, attempt, 20)
    history = log.refresh()
    assert [maps.step for maps in history.maps] == [5, 10]
    assert from_sum(history.to_sum()) == history
    assert Log(log.store).refresh() == history
    assert not check(log)


def test_maps_stay_while_a_commit_leads_to_them(store, log):
    attempt = started(log)
    for step in (9, 19):
        commit(log, attempt, step)
        record(log, attempt, step + 1)
        store.put(f"maps/{step:08d}-0001/manifest.json", b"")
    commit(log, attempt, 29)  # begun, and not recorded yet
    for name in ("00000029-0001", "00000029-0002", "00000008-0001", "00000008-0003"):
        store.put(f"maps/{name}/00-000000.maps", b"")
    names = [found.name for found in store.list_objects("maps/")]
    gone = ["maps/00000008-0001/00-000000.maps"]
    assert sorted(unread_maps(log.refresh(), attempt, names)) == gone
    retire(store, log, attempt, keep=2, keep_every=None)  # 19 and 29 are left: 20 reads the maps of 19
    left = {found.name.split("/")[1] for found in store.list_objects("maps/")}
    assert left == {"00000019-0001", "00000029-0001", "00000029-0002", "00000008-0003"}
