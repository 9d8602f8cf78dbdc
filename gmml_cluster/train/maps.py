"""Between two steps: maps of attention of all images, by all ranks, of the weights that were just committed.

The commit is what the maps are a function of (docs/reference/maps.md), so every rank reads its weights back from the
store: at any ZeRO stage, and in an attempt that resumes from it, they are the same. A block that an earlier attempt
wrote from this commit is checked and kept. Nothing of the pass is state of the training.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gmml_cluster.data.augment import normalised
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.reader.corpus_pass import CorpusPass
from gmml_cluster.data.reader.map_blocks import BlockId, all_blocks, check_block, manifest_of, put_block
from gmml_cluster.data.reader.map_table import MapRules, MapTable
from gmml_cluster.data.reader.node_share import decode_threads
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting
from gmml_cluster.models.attention_map import attention_map, map_bytes
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.plan.refreshes import refreshes
from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.run.folders import maps_folder
from gmml_cluster.run.history import Commit, Maps
from gmml_cluster.run.maps import record_maps
from gmml_cluster.run.progress import map_pass_name
from gmml_cluster.run.root import RunRoot
from gmml_cluster.running_time import running_time
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.store.protocol import Store
from gmml_cluster.train.checkpoints.read import CheckpointReader
from gmml_cluster.train.ranks.rendezvous import START_S, KeyValueStore, RankInfo
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.ranks.watchdog import watchdog
from gmml_cluster.train.stepper import LoopResult

BATCH = 128
"""Images of a forward pass, counted from a block's first: a map may depend on it in the last bit, so it is fixed."""
PROGRESS_S = 5.0
_NO_MAP = 255
_STOPS: tuple[LoopResult, ...] = ("", "notice", "cancelled")
"""What may end a pass, the stronger the later."""

_log = logging.getLogger(__name__)


def map_table(job: JobSpec, layout: SampleLayout, steps: int, store: Store, made: Sequence[Maps]) -> MapTable | None:
    """The maps that a job's images have; None where its method does not mask by them.

    Args:
        made: those that the log has.
    """
    amt = getattr(job.method, "amt", None)
    if amt is None:
        return None
    patch_size = job.model.patch_size
    rules = MapRules(job.seed, job.data.augment, amt.alignment, job.data.image_size // patch_size, patch_size)
    table = MapTable(refreshes(amt.start, amt.interval, layout, steps), store, rules)
    for maps in made:
        table.add(maps.step, maps.folder, maps.manifest)
    return table


def committed_encoder(job: JobSpec, store: Store, commit: Commit, device: torch.device) -> VisionTransformer:
    """The online encoder with the weights of a commit, for evaluation.

    Raises:
        CheckpointError: the commit is damaged.
    """
    encoder = blank(Setting.of(job)).module.get_submodule("encoder")
    assert isinstance(encoder, VisionTransformer), "methods that mask by maps have a plain encoder"
    reader = CheckpointReader(store, commit.folder, commit.manifest)
    encoder.load_state_dict({name: reader.tensor(f"encoder.{name}") for name in encoder.state_dict()}, assign=True)
    return encoder.to(device).eval().requires_grad_(False)


@dataclass
class MapMaker:
    """Makes the maps of an attempt when they are due.

    Attributes:
        kv: the main thread's connection.
        pinned: the run's corpora.
        table: gets the maps that are made.
        stream: decodes no image of a step whose maps are not made.
    """

    run: RunRoot
    job: JobSpec
    rank_info: RankInfo
    kv: KeyValueStore
    attempt: int
    pinned: Pin
    table: MapTable
    stream: Stream
    stop_request: StopRequest
    device: torch.device
    _next_progress: float = field(default=0.0, init=False)

    def due(self, step: int) -> bool:
        """Whether maps are to be made before this step, of the commit of the step before it."""
        return self.table.due(step)

    def make(self, step: int) -> LoopResult:
        """Make the maps that a step is the first to read. A collective.

        The step before is committed.

        Returns:
            Why the attempt is to stop before they are complete; empty where they are.

        Raises:
            CheckpointError: the commit is damaged.
            StorageError: a store does not answer.
            Fenced: a later attempt has claimed.
        """
        began, kv, key = running_time(), self.kv, f"maps/{step}"
        if self._is_rank_zero:
            kv.set(f"{key}/commit", asdict(self._commit(step - 1)))
        commit = Commit(**kv.wait(f"{key}/commit", timeout_s=START_S))
        folder = maps_folder(commit.step, commit.attempt)
        known = self._exchanged(f"{key}/found", self._standing(folder))
        blocks = list(all_blocks(self._samples))
        missing = [block for block in blocks if block.name not in known]
        made: dict[str, int] = {}
        self._tell(folder, len(blocks) - len(missing), len(blocks))
        stop = self._make(missing, folder, commit, made)
        if stop:
            return stop
        crcs = known | self._exchanged(f"{key}/made", made)
        if self._is_rank_zero:
            kv.set(f"{key}/recorded", asdict(self._record(step, commit, folder, crcs, running_time() - began)))
        maps = Maps(**kv.wait(f"{key}/recorded", timeout_s=START_S))
        self.table.add(maps.step, maps.folder, maps.manifest)
        self.stream.maps_made()
        return ""

    @property
    def _is_rank_zero(self) -> bool:
        return self.rank_info.rank == 0

    @property
    def _samples(self) -> list[int]:
        return [shape.samples for shape in self.pinned.shapes]

    def _commit(self, step: int) -> Commit:
        """The latest commit of a step: that which this attempt has appended, or resumed from."""
        return [commit for commit in self.run.log.refresh().commits if commit.step == step][-1]

    def _standing(self, folder: str) -> dict[str, int]:
        """Blocks that an earlier attempt wrote, with their CRCs: this rank's share of them, those that are intact."""
        names = {found.name.rpartition("/")[2] for found in self.run.store.list_objects(f"{folder}/")}
        there = [block for block in all_blocks(self._samples) if block.name in names]
        own = there[self.rank_info.rank :: self.rank_info.ranks]
        crcs = {block.name: check_block(self.run.store, folder, block, self._bytes(block)) for block in own}
        return {name: crc for name, crc in crcs.items() if crc is not None}

    def _bytes(self, block: BlockId) -> int:
        return len(block.samples(self._samples)) * self.table.patches

    def _exchanged(self, key: str, own: dict[str, int]) -> dict[str, int]:
        """What all ranks have, by way of rank 0."""
        self.kv.set(f"{key}/{self.rank_info.rank}", own)
        if self._is_rank_zero:
            parts = [self.kv.wait(f"{key}/{rank}", timeout_s=START_S) for rank in range(self.rank_info.ranks)]
            self.kv.set(f"{key}/all", {name: crc for part in parts for name, crc in part.items()})
        found: dict[str, int] = self.kv.wait(f"{key}/all", timeout_s=START_S)
        return found

    def _make(self, missing: Sequence[BlockId], folder: str, commit: Commit, made: dict[str, int]) -> LoopResult:
        """Make the missing blocks, a block a rank at a time. All ranks agree after each batch whether to go on."""
        if not missing:
            return ""
        ranks, rank = self.rank_info.ranks, self.rank_info.rank
        encoder = committed_encoder(self.job, self.run.store, commit, self.device)
        reading = CorpusPass(self.pinned, self.job.data, decode_threads(self.rank_info.local_ranks))
        try:
            for first in range(0, len(missing), ranks):
                together = missing[first : first + ranks]
                own = together[rank] if rank < len(together) else None
                batches = self._maps(encoder, reading, own) if own is not None else iter(())
                done: list[Tensor] = []
                for _ in range(max(-(-len(block.samples(self._samples)) // BATCH) for block in together)):
                    done.extend(batch for batch in [next(batches, None)] if batch is not None)
                    if stop := self._agreed_stop():
                        return stop
                if own is not None:
                    made[own.name] = put_block(self.run.store, folder, own, torch.cat(done).cpu().numpy())
                self._progress(folder, first + len(together), len(missing))
        finally:
            reading.close()
        return ""

    def _maps(self, encoder: VisionTransformer, reading: CorpusPass, block: BlockId) -> Iterator[Tensor]:
        """A block's maps in bytes, by batches, on the device; a bad sample, which no step shows, has an even one."""
        half = self.job.engine.precision == "bf16"
        for batch in reading.batches(block.corpus, block.samples(self._samples), BATCH):
            images = torch.from_numpy(np.ascontiguousarray(batch.images)).to(self.device)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=half):
                weights = attention_map(encoder, normalised(images, self.job.data.normalise))
            good = torch.from_numpy(batch.good).to(self.device)
            yield torch.where(good[:, None], map_bytes(weights), _NO_MAP)

    def _agreed_stop(self) -> LoopResult:
        watchdog.beat("a pass over the corpora")
        stop = torch.tensor(_STOPS.index(self.stop_request.stop), device=self.device)
        dist.all_reduce(stop, op=dist.ReduceOp.MAX)
        return _STOPS[int(stop.item())]

    def _progress(self, folder: str, made: int, missing: int) -> None:
        if time.monotonic() >= self._next_progress or made == missing:
            self._next_progress = time.monotonic() + PROGRESS_S
            blocks = len(list(all_blocks(self._samples)))
            self._tell(folder, blocks - missing + made, blocks)

    def _tell(self, folder: str, made: int, blocks: int) -> None:
        """Rank 0's: how far the pass is, in the log of the rank and for `gmml status`."""
        if self._is_rank_zero:
            _log.info("maps: block %d of %d", made, blocks)
            self.run.store.put(map_pass_name(folder), json.dumps({"made": made, "blocks": blocks}).encode())

    def _record(self, step: int, commit: Commit, folder: str, crcs: dict[str, int], seconds: float) -> Maps:
        """Rank 0's: write the manifest and append `map`."""
        by_id = {BlockId.parse(name): crc for name, crc in crcs.items()}
        manifest = manifest_of(by_id, self._samples, self.table.patches)
        self.run.store.put(f"{folder}/manifest.json", manifest)
        blocks = list(all_blocks(self._samples))
        written: dict[str, Any] = {"size": len(manifest) + sum(map(self._bytes, blocks)) + 4 * len(blocks)}
        digest = hashlib.sha256(manifest).hexdigest()
        written |= {"manifest": digest, "blocks": len(blocks), "seconds": seconds}
        maps = record_maps(self.run.log, self.attempt, step=step, of=commit, **written)
        _log.info("maps for step %d on recorded: %.1f MB in %.1f s", step, maps.size / 1e6, seconds)
        return maps
