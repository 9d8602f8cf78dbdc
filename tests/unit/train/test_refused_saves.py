"""A store that refuses to save for a while, by a full disk say, costs a run nothing but the saves."""

import re
from typing import Any

import pytest

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.launch.jobs import Jobs
from gmml_cluster.launch.runs import status
from gmml_cluster.plan.memory import checkpoint_bytes, moments_of
from gmml_cluster.plan.shares import counts_of
from gmml_cluster.run.saving import space
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.train import records
from tests.fixtures.attempts import Lines, attempt_of, make_run
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import digits_job

pytest.importorskip("sklearn")
METHODS: dict[str, dict[str, Any]] = {
    "gmml": {"name": "gmml"},
    "conmim": {"name": "conmim", "projector": [32, 32, 16], "momentum": 0.5},
}
STEPS, REFUSED = 8, (3, 5)


def with_and_without_refusals(rank: int, ranks: int, folder: str, root: str) -> dict[str, Any]:
    put = PosixStore.put

    def refusing(self: PosixStore, name: str, data: Any, **options: Any) -> None:
        if re.match(rf"checkpoints/0*({'|'.join(map(str, REFUSED))})-", name):
            raise StorageError(Fault(name, "No space left on device"))
        put(self, name, data, **options)

    records.SAVE_AGAIN_S = 1e6  # else a save by time may come between those by steps
    found: dict[str, Any] = {}
    for name in ("calm", "refused"):
        job = digits_job(folder, METHODS["gmml"], steps=STEPS, checkpoint={"every": "2 steps", "keep": 10})
        run, lines = make_run(f"{root}/{name}", job), Lines()
        PosixStore.put = refusing if name == "refused" else put  # type: ignore[method-assign]
        assert attempt_of(run, rank, ranks, lines) == 0
        history = run.log.refresh()
        files = {found.name.split("/")[1] for found in run.store.list_objects("checkpoints/")}
        found[name] = lines.losses, [commit.step for commit in history.commits], len(files), history.finished
    return found


def test_a_run_goes_on_while_saves_are_refused_with_the_same_losses(digits_corpus, tmp_path):
    (found,) = run_ranks(1, with_and_without_refusals, digits_corpus, str(tmp_path))
    (calm, every, _, _), (losses, saved, folders, finished) = found["calm"], found["refused"]
    assert losses == calm
    assert len(losses) == STEPS
    assert every == [1, 3, 5, 7]
    assert saved == [step for step in every if step not in REFUSED]
    assert folders == len(saved), "nothing is left of a refused checkpoint"
    assert finished


def sizes(rank: int, ranks: int, folder: str, root: str) -> dict[str, tuple[int, int]]:
    found = {}
    for name, method in METHODS.items():
        job = digits_job(folder, method, steps=1)
        run = make_run(f"{root}/{name}", job)
        assert attempt_of(run, rank, ranks, Lines()) == 0
        found[name] = run.log.refresh().commits[-1].size, checkpoint_bytes(counts_of(job), moments_of(job.optim))
    return found


def test_the_plans_bytes_of_a_checkpoint_are_those_of_a_real_one(digits_corpus, tmp_path):
    (found,) = run_ranks(1, sizes, digits_corpus, str(tmp_path))
    for real, planned in found.values():  # the rest is names: headers of files and the manifest
        assert planned <= real <= planned + 100_000


def no_room(rank: int, ranks: int, folder: str, root: str) -> list[str | None]:
    job = digits_job(folder, METHODS["gmml"], steps=4, checkpoint={"every": "1 steps"})
    run = make_run(root, job)
    told = []

    def look(self: Any, report: Any) -> None:
        poll = status.poll
        status.poll = lambda histories: {url: Jobs({}) for url in histories}
        told.append(status.statuses([run]).documents[0]["lacks_room"])
        status.poll = poll

    space.free_bytes = lambda url: 1000  # type: ignore[assignment]
    records.StepRecord.write = look  # type: ignore[method-assign]
    assert attempt_of(run, rank, ranks, Lines()) == 0
    told.append(status.statuses([run]).documents[0]["lacks_room"])
    return told


def test_status_says_that_the_next_checkpoint_will_not_fit_until_the_run_has_finished(digits_corpus, tmp_path):
    (told,) = run_ranks(1, no_room, digits_corpus, str(tmp_path))
    assert told[0] is None, "without a checkpoint there is no figure"
    assert "0.00 GB are free, and the next checkpoint takes" in told[-2]
    assert told[-1] is None
