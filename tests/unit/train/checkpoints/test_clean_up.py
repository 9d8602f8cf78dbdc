"""What a store that does not answer holds back: the deletion of old checkpoints, and no save."""

import threading
from types import SimpleNamespace

import pytest

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.log import Draft, Log
from gmml_cluster.train.checkpoints.clean_up import CleanUp
from gmml_cluster.train.checkpoints.save import Saved, Spent
from gmml_cluster.train.records import Commits
from tests.unit.run.memory import MemoryStore

PATIENCE_S = 240.0


class StalledStore(MemoryStore):
    """A store that does not answer listings and deletes of checkpoints until it is let go."""

    def __init__(self):
        super().__init__()
        self.goes_on, self.asked = threading.Event(), threading.Event()
        self.before = self.stall

    def stall(self, method, name):
        if method not in ("get", "put", "create") and name.startswith("checkpoints/"):
            self.asked.set()
            assert self.goes_on.wait(PATIENCE_S)


def commits_of(store):
    log = Log(store)
    log.append(lambda history: Draft("open", None, {}, run="r"))
    token = protocol.submit(log, launcher="local", code="c", bounds={})
    attempt = protocol.claim(log, submit=token, job="j", restart=0, topology={}, machine={}).attempt
    run = SimpleNamespace(store=store, log=log, url=store.url)
    return Commits(run, attempt, SimpleNamespace(publish=lambda: None), 1, None, 0)


def saved(store, step):
    folder = f"checkpoints/{step:08d}-0001"
    store.put(f"{folder}/manifest.json", b"")
    return Saved(step, folder, f"m{step}", 1, 0.1, Spent(0.0, 0.0))


STATE = {"skipped_steps": [], "bad": [], "unchecked": 0}


def test_checkpoints_are_committed_while_old_ones_cannot_be_deleted():
    store = StalledStore()
    commits = commits_of(store)
    for step in (0, 1, 2):
        commits.append(saved(store, step), STATE)  # returns, though nothing is deleted
        assert store.asked.wait(PATIENCE_S)
    history = commits.run.log.refresh()
    assert 2 in [commit.step for commit in history.commits]
    assert len(store.objects) > 3
    store.goes_on.set()
    commits.finish()
    left = [name for name in store.objects if name.startswith("checkpoints/")]
    assert left == ["checkpoints/00000002-0001/manifest.json"], "what was asked for meanwhile is done after it"
    assert [commit.step for commit in commits.run.log.refresh().commits] == [2]


def test_what_the_store_refuses_to_delete_goes_after_the_next_checkpoint():
    store = MemoryStore()
    commits = commits_of(store)

    def refuse(method, name):
        if method == "list":
            raise StorageError(Fault(name, "no answer"))

    store.before = refuse
    commits.append(saved(store, 0), STATE)
    commits.append(saved(store, 1), STATE)
    commits.finish()
    store.before = lambda method, name: None
    commits.append(saved(store, 2), STATE)
    commits.finish()
    assert [name for name in store.objects if name.startswith("checkpoints/")] == [
        "checkpoints/00000002-0001/manifest.json"
    ]


def test_a_defect_ends_the_attempt_at_the_next_checkpoint():
    clean_up = CleanUp(lambda: 1 // 0)
    clean_up.ask()
    clean_up.wait(PATIENCE_S)
    with pytest.raises(ZeroDivisionError):
        clean_up.ask()


def test_what_is_asked_for_meanwhile_is_done_once_and_after_it():
    begun, goes_on, times = threading.Event(), threading.Event(), []

    def work():
        begun.set()
        assert goes_on.wait(PATIENCE_S)
        times.append(1)

    clean_up = CleanUp(work)
    clean_up.ask()
    assert begun.wait(PATIENCE_S)
    for _ in range(5):
        clean_up.ask()
    goes_on.set()
    clean_up.wait(PATIENCE_S)
    assert len(times) == 2
