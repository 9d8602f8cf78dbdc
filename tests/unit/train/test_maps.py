"""Maps are made of the commit before their step, once, whatever dies, and losses stay those of an undisturbed run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader import map_blocks
from gmml_cluster.data.reader.corpus_pass import CorpusPass
from gmml_cluster.data.reader.locate import Wanted
from gmml_cluster.data.reader.map_blocks import MapBlockCache, MapBlocks, all_blocks
from gmml_cluster.models.attention_map import attention_map, map_bytes
from gmml_cluster.run.history import Commit
from gmml_cluster.run.root import run_root
from gmml_cluster.train import maps
from gmml_cluster.train.stepper import Stepper
from tests.fixtures.attempts import Died, Lines, attempt_of, make_run
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import digits_job

pytest.importorskip("sklearn")
AMT = {"start": "6 steps", "interval": "4 steps"}
MAE = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "amt": AMT}
STEPS, BLOCK, PASSES = 14, 256, [4, 8, 12]
DEATHS = ["before 4", "in 4", "unrecorded 4", "step 6", "in 8", "step 10", "step 12"]


def job_of(folder: str, **changes: Any) -> Any:
    # every second view is flipped; saves are only those that passes need
    return digits_job(folder, MAE, steps=STEPS, checkpoint={"every": "100 steps"}, **changes)


def fail_at(death: str) -> None:
    """Have this process die at a point of its attempt; all else is as it was."""
    maps.committed_encoder, maps.put_block, maps.record_maps, Stepper.enqueue = ORIGINALS  # type: ignore[method-assign]
    where, _, number = death.partition(" ")
    if where == "step":

        def enqueue(self: Stepper, step: int) -> Any:
            if step == int(number):
                raise Died
            return ORIGINALS[3](self, step)

        Stepper.enqueue = enqueue  # type: ignore[method-assign]
    elif where == "in":
        left = iter([True, True])

        def put_block(*arguments: Any) -> int:
            if not next(left, False):
                raise Died
            return ORIGINALS[1](*arguments)

        maps.put_block = put_block
    elif where:

        def die(*_: Any, **__: Any) -> Any:
            raise Died

        setattr(maps, {"before": "committed_encoder", "unrecorded": "record_maps"}[where], die)


ORIGINALS = (maps.committed_encoder, maps.put_block, maps.record_maps, Stepper.enqueue)


def undisturbed_and_killed(rank: int, ranks: int, folder: str, root: str) -> dict[str, Any]:
    map_blocks.BLOCK = BLOCK
    found: dict[str, Any] = {}
    for name, deaths in (("calm", []), ("killed", DEATHS)):
        run, lines = make_run(f"{root}/{name}", job_of(folder)), Lines()
        written = _counted_puts()
        for death in deaths:
            fail_at(death)
            with pytest.raises(Died):
                attempt_of(run, rank, ranks, lines)
        fail_at("")
        assert attempt_of(run, rank, ranks, lines) == 0
        found[name] = lines.losses, [vars(each) for each in run.log.refresh().maps], list(written), lines
    return found


def _counted_puts() -> list[str]:
    written: list[str] = []
    original = map_blocks.put_block

    def counted(store: Any, folder: str, block: Any, content: Any) -> int:
        written.append(f"{folder}/{block.name}")
        return original(store, folder, block, content)

    global ORIGINALS
    ORIGINALS = (ORIGINALS[0], counted, *ORIGINALS[2:])
    return written


@pytest.fixture(scope="module")
def runs(digits_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    root = str(tmp_path_factory.mktemp("runs"))
    return run_ranks(1, undisturbed_and_killed, digits_corpus, root)[0], root


def test_losses_are_those_of_the_undisturbed_run_to_the_bit(runs: Any) -> None:
    found, _ = runs
    assert len(found["calm"][0]) == STEPS
    assert found["killed"][0] == found["calm"][0]


def test_metrics_say_which_pass_made_the_maps_of_a_step(runs: Any) -> None:
    found, _ = runs
    for _, _, _, lines in found.values():
        assert [lines.by_step[step]["map_pass"] for step in range(STEPS)] == [0] * 6 + [1] * 2 + [2] * 4 + [3] * 2


def test_there_is_one_entry_a_pass_and_no_block_is_made_twice(runs: Any) -> None:
    found, _ = runs
    for name in found:
        _, entries, written, _ = found[name]
        assert [(each["step"], each["of_step"]) for each in entries] == [(step, step - 1) for step in PASSES]
        assert len(written) == len(set(written)) == 3 * -(-1297 // BLOCK)
    manifests = {name: [each["manifest"] for each in found[name][1]] for name in found}
    assert manifests["killed"] == manifests["calm"]
    assert len(set(manifests["calm"])) == 3


def test_the_maps_are_those_of_the_commit(runs: Any, digits_corpus: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(map_blocks, "BLOCK", BLOCK)
    found, root = runs
    run, job = run_root(f"{root}/killed", "digits"), job_of(digits_corpus)
    last = found["killed"][1][-1]
    commit = next(commit for commit in run.log.refresh().commits if commit.step == last["of_step"])
    assert isinstance(commit, Commit)
    encoder = maps.committed_encoder(job, run.store, commit, torch.device("cpu"))
    reading = CorpusPass(pin(job.data.corpora), job.data, 1)
    batch = next(reading.batches(0, range(300, 340), 64))
    reading.close()
    half = (torch.from_numpy(batch.images.copy()).float() / 255 - 0.5) / 0.5
    expected = map_bytes(attention_map(encoder, half)).numpy()
    folder = f"maps/{last['of_step']:08d}-{last['of_attempt']:04d}"
    blocks = MapBlocks(run.store, folder, last["manifest"], 16, MapBlockCache(2))
    stored = blocks.maps([Wanted(0, y) for y in range(300, 340)])
    assert np.abs(stored.astype(int) - expected).max() <= 1, "batches of another size differ in the last bit"
    assert len(list(Path(f"{root}/killed/digits/{folder}").glob("*.maps"))) == len(list(all_blocks([1297])))
