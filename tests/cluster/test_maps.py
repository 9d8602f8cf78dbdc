"""Two ranks make the maps that one process makes of the same commit, at every stage of ZeRO."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from gmml_cluster.data.augment import normalised
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader import map_blocks
from gmml_cluster.data.reader.corpus_pass import CorpusPass
from gmml_cluster.data.reader.locate import Wanted
from gmml_cluster.data.reader.map_blocks import BlockId, MapBlockCache, MapBlocks, all_blocks
from gmml_cluster.models.attention_map import attention_map, map_bytes
from gmml_cluster.run.root import run_root
from gmml_cluster.train import maps
from tests.fixtures.attempts import Lines, attempt_of, make_run
from tests.fixtures.ranks import run_ranks
from tests.fixtures.training import digits_job

pytest.importorskip("sklearn")
AMT = {"start": "3 steps", "interval": "3 steps"}
METHOD = {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "amt": AMT}
BLOCK, STAGES = 256, ("ddp", 1, 3)


def job_of(folder: str, zero: Any) -> Any:
    return digits_job(folder, METHOD, steps=5, engine={"zero": zero}, checkpoint={"every": "100 steps"})


def train(rank: int, ranks: int, folder: str, root: str) -> dict[Any, list[float]]:
    map_blocks.BLOCK = BLOCK
    found = {}
    for zero in STAGES:
        if rank == 0:
            make_run(f"{root}/{zero}", job_of(folder, zero))
        dist.barrier()
        lines = Lines()
        assert attempt_of(run_root(f"{root}/{zero}", "digits"), rank, ranks, lines) == 0
        found[zero] = lines.losses
    return found


def test_two_ranks_make_the_maps_of_the_commit_at_every_stage(digits: Any, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(map_blocks, "BLOCK", BLOCK)
    torch.set_num_threads(1)
    corpus = f"{digits}/train"
    losses = run_ranks(2, train, corpus, str(tmp_path))[0]
    job, made = job_of(corpus, "ddp"), []
    for zero in STAGES:
        run = run_root(f"{tmp_path}/{zero}", "digits")
        history = run.log.refresh()
        entry = history.maps[0]
        assert (entry.step, entry.of_step, len(history.maps)) == (3, 2, 1)
        blocks = MapBlocks(run.store, entry.folder, entry.manifest, 16, MapBlockCache(8))
        made.append(blocks.maps([Wanted(0, y) for y in range(1297)]))
        commit = next(commit for commit in history.commits if commit.step == 2)
        encoder = maps.committed_encoder(job, run.store, commit, torch.device("cpu"))
        assert np.array_equal(made[-1], maps_of(encoder, job)), zero
        assert losses[zero] == pytest.approx(losses["ddp"], rel=1e-5)
    assert all(np.abs(made[0].astype(int) - other).max() <= 1 for other in made), "weights differ in the last bit"


def maps_of(encoder: Any, job: Any) -> Any:
    reading, found = CorpusPass(pin(job.data.corpora), job.data, 1), []
    for block in all_blocks([1297]):
        assert isinstance(block, BlockId)
        for batch in reading.batches(0, block.samples([1297]), maps.BATCH):
            images = torch.from_numpy(np.ascontiguousarray(batch.images))
            found.append(map_bytes(attention_map(encoder, normalised(images, job.data.normalise))).numpy())
    reading.close()
    return np.concatenate(found)
