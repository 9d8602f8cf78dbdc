"""A small GMML on one rank, trained by the project's own loop, engines and process group."""

import math
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from benchmarks.gpu_check.result import Setting
from gmml_cluster.data.corpus.listing import ShardFile
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.data.corpus.pinned import PinnedCorpus, PinnedShard, PinnedShards
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.methods.build import build
from gmml_cluster.methods.protocol import Draws, Forward, Losses, Method
from gmml_cluster.plan.sample_layout import MicroBatches
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.spec.rules import group_of
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.train.checkpoints.load_trained import full_precision
from gmml_cluster.train.engines.build import make_engine
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.loop import run
from gmml_cluster.train.ranks import groups
from gmml_cluster.train.ranks.rendezvous import RankInfo, meet
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.stepper import Batches, LoopResult, Report, Stepper

STEPS = 20
_BATCHES = 4
_ONE_RANK = RankInfo(0, 1, 0, 1)
_SHARDS = PinnedShards.of([PinnedShard(ShardFile("/none/0.tar", 1, "1"), 64)], "")
_PIN = Pin([PinnedCorpus("/none", 1.0, "identity", _SHARDS)])
State = dict[tuple[str, str, int], Tensor]


def zero_of(variant: str) -> Any:
    """`ddp`, or the stage of `zero-N`, as a job names it."""
    return variant if variant == "ddp" else int(variant.removeprefix("zero-"))


def small_job(variant: str, setting: Setting, *, seed: int = 7) -> JobSpec:
    """GMML with two views, every augmentation, drop path, and two micro-batches a step."""
    quick = setting.quick
    return make_job(
        model={"width": 32 if quick else 384, "depth": 2 if quick else 6, "heads": 2 if quick else 6, "patch_size": 4,
               "drop_path": 0.1},
        image_size=16 if quick else 64, batch=16 if quick else 64, micro=8 if quick else 32, seed=seed,
        engine={"zero": zero_of(variant)},
    )  # fmt: skip


def make_job(
    *, model: dict[str, Any], image_size: int, batch: int, micro: int, engine: dict[str, Any], seed: int = 7
) -> JobSpec:
    """A job of GMML with two views on no corpus."""
    data = {"corpora": [{"url": "/none"}], "image_size": image_size, "group": 8 if micro % 8 == 0 else 4}
    return parse_job(
        {
            "name": "gpu-check",
            "seed": seed,
            "model": model,
            "method": {"name": "gmml", "views": 2},
            "data": {**data, "augment": "gmml"},
            "batch": {"size": batch, "micro": micro},
            "engine": engine,
            "optim": {"schedule": {"warmup": "2 steps"}},
            "run": {"steps": 1000},
        }
    )


@contextmanager
def process_group(setting: Setting) -> Iterator[torch.device]:
    """The rank's device, with a process group of one rank that the project's own code makes."""
    device = torch.device(setting.device, 0) if setting.device == "cuda" else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    full_precision()
    with tempfile.TemporaryDirectory() as folder:
        kv, _ = meet(PosixStore(folder), "gpu-check", _ONE_RANK)
        groups.join(kv, _ONE_RANK, device)
        try:
            yield device
        finally:
            dist.destroy_process_group()


class RandomBatches:
    """Random images that are a function of the step; made once, as making them would hold up the loop."""

    def __init__(self, job: JobSpec, views: int, first: int) -> None:
        batch, size = job.batch.size, job.data.image_size
        shape = (_BATCHES, batch, views, 3, size, size)
        self._batch, self._step = batch, first
        self._images = np.random.default_rng(5).integers(0, 256, shape, np.uint8)

    def next(self) -> HostBatch:
        """The batch of the next step."""
        step = self._step
        self._step += 1
        numbers = np.arange(step * self._batch, (step + 1) * self._batch, dtype=np.int64)
        return HostBatch(step, numbers, self._images[step % _BATCHES])


@dataclass
class Poisoned:
    """A method whose losses, and so its gradients, are NaN while `active`."""

    method: Method
    active: bool = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.method, name)

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """The method's own, or NaN; multiplied, so that gradients flow through the whole module."""
        found = self.method.loss(forward, images, draws)
        return Losses(found.groups * math.nan, found.scalars, found.outputs) if self.active else found


@dataclass
class Trainer:
    """A stepper with what the loop needs beside it.

    Attributes:
        lines: metric line of each step read.
    """

    stepper: Stepper
    poison: Poisoned
    lines: list[dict[str, Any]] = field(default_factory=list)

    @property
    def engine(self) -> Engine:
        """The engine."""
        return self.stepper.engine

    def train(self, first: int, total: int, after: Callable[[Report], None] = lambda _: None) -> tuple[LoopResult, int]:
        """Steps `first` to `total - 1` by the loop; `after` is called with each report."""

        def write(report: Report) -> None:
            self.lines.append(report.line)
            after(report)

        return run(self.stepper, _NotSaved(), first=first, total=total, every_steps=None, write=write)

    def state(self) -> State:
        """Weights, moments and buffers on the host, by name, key and start, as a checkpoint holds them."""
        parts = self.engine.slices()
        return {(part.name, key, part.start): view.cpu().clone() for part in parts for key, view in part.views.items()}

    def load(self, state: State, counts: dict[str, Any]) -> None:
        """Take a state and the stepper's own counts, as a resume does."""
        self.engine.load(lambda name, key, start, numel: state[name, key, start][:numel])
        self.engine.set_adam_step(counts["adam_step"])
        self.engine.skips_in_a_row.fill_(counts["skips_in_a_row"])


class _NotSaved:
    def begin(self, step: int, state: dict[str, Any]) -> None:
        """Nothing is kept."""

    def check(self) -> None:
        """Nothing can have failed."""


def make_trainer(
    job: JobSpec, device: torch.device, *, first: int = 0, steps: int = STEPS, batches: Batches | None = None
) -> Trainer:
    """An engine over a method with initial weights, and its stepper; on random images where `batches` is not given."""
    method = build(job)
    poison = Poisoned(method)
    engine = make_engine(method.module, engine=job.engine, optim=job.optim, device=device)
    group = group_of(job)
    micro = job.batch.size if job.batch.micro == "auto" else job.batch.micro
    stepper = Stepper(
        job=job,
        method=poison,
        engine=engine,
        batches=batches or RandomBatches(job, method.views, first),
        schedule=Schedule.of(job.optim, batch=job.batch.size, run_steps=steps, epoch_steps=1),
        micro=MicroBatches(micro // group, job.batch.size // micro, 0.0),
        groups=job.batch.size // group,
        group=group,
        rank_info=_ONE_RANK,
        device=device,
        stop_request=StopRequest(),
        limit=Limit(_PIN, 0.5),
        attempt=1,
    )
    return Trainer(stepper, poison)


def same(one: State, other: State) -> bool:
    """Whether two states are equal bit for bit; unlike `==`, this separates -0 from 0 and finds NaN equal to itself."""
    return one.keys() == other.keys() and all(
        torch.equal(values.view(torch.uint8), other[key].view(torch.uint8)) for key, values in one.items()
    )
