"""One training step of a rank: enqueued on the device, read one step later."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.methods.protocol import AfterStep, Losses, Method
from gmml_cluster.plan.sample_layout import MicroBatches
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.store.retries import RetriesSince
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.gradients import SKIPS_LATCH
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.inputs import method_inputs
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.signals import StopRequest
from gmml_cluster.train.ranks.stragglers import ForwardClock, Stragglers, Timed
from gmml_cluster.train.ranks.watchdog import watchdog
from gmml_cluster.train.step_stats import RankStats, StepStats, StepVector, cache_scalars

LoopResult = Literal["", "finished", "notice", "cancelled", "not_finite"]


class Batches(Protocol):
    """Where the rank's images of the next step come from."""

    def next(self) -> HostBatch: ...


@dataclass(frozen=True)
class Pending:
    """A step that was enqueued and whose vector has not been read.

    Attributes:
        vector: on the host; complete when the event is.
        event: None on CPU, where the vector is complete at once.
        numbers: int64 (n,): sample numbers of this rank.
        losses: of each micro-batch the losses of its groups, on the device; read only where the step was skipped.
        scalars: names of the method's scalars in the vector.
        momentum: share of itself that a teacher kept; None without a teacher.
        map_pass: which pass made the maps that mask, from 1; 0 before they do, None where none does.
        stall_s: seconds between the step before and this one in which the state was copied for a save.
        forward: events of the device around the first forward pass; None on CPU.
    """

    step: int
    vector: Tensor
    event: "torch.cuda.Event | None"
    lr: float
    weight_decay: float
    numbers: NDArray[np.int64]
    losses: list[Tensor]
    scalars: tuple[str, ...]
    momentum: float | None = None
    map_pass: int | None = None
    stall_s: float = 0.0
    forward: Timed = None


@dataclass(frozen=True)
class Skip:
    """A step whose update was left out, because something of it was not finite.

    Attributes:
        what: the loss, or the first tensor whose gradient was not finite; equal on all ranks.
        samples: first and last sample number of the step, over all ranks.
        own: sample numbers of this rank's groups whose loss was not finite.
    """

    step: int
    what: str
    samples: tuple[int, int]
    own: list[int]

    def __str__(self) -> str:
        return f"step {self.step}: {self.what} is not finite (samples {self.samples[0]} to {self.samples[1]})"


@dataclass(frozen=True)
class Report:
    """What the vector of a step says, equal on all ranks but for `skip.own`.

    Attributes:
        line: the step's metric line.
        stop: why the loop is to stop, or "".
        save: whether a save by time is due.
        skip: set where the update was left out.
    """

    line: dict[str, Any]
    stop: LoopResult
    save: bool
    skip: Skip | None


@dataclass
class Stepper:
    """Enqueues steps and reads their vectors.

    Attributes:
        groups: groups of a step that this rank computes.
        group: samples of a group.
        limit: how many bad samples the run tolerates.
        save_due: rank 0's clock: whether a save by time is due.
        skipped_steps: steps whose update was not finite and therefore not applied.
        skips_in_a_row: how many of them end with the last step read; the engine counts the same on the device.
        bad: distinct bad samples of each corpus, up to the last step read.
        unchecked: samples that were read without a checksum, up to the last step read.
        stragglers: which ranks are slow, up to the last step read.
        waited_s: seconds that the slowest rank waited for images in each step, up to the last step read.
    """

    job: JobSpec
    method: Method
    engine: Engine
    batches: Batches
    schedule: Schedule
    micro: MicroBatches
    groups: int
    group: int
    rank_info: RankInfo
    device: torch.device
    stop_request: StopRequest
    limit: Limit
    attempt: int
    save_due: Callable[[], bool] = lambda: False
    skipped_steps: list[int] = field(default_factory=list)
    skips_in_a_row: int = 0
    bad: list[int] = field(default_factory=list)
    unchecked: int = 0
    waited_s: float = 0.0
    stragglers: Stragglers = field(default_factory=Stragglers)
    _retries: RetriesSince = field(default_factory=RetriesSince)
    _stall_s: float = 0.0
    _enqueued_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.bad = self.bad or [0] * self.limit.corpora
        self._forward = ForwardClock(self.device)
        self._vector = StepVector(self.rank_info.ranks, self.rank_info.rank, self.limit.corpora)

    @contextmanager
    def left_out(self) -> Iterator[None]:
        """What is done inside lies between two steps and counts for neither step's time."""
        began = time.monotonic()
        yield
        self._enqueued_at += time.monotonic() - began

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """What is done inside is part of a save; it counts for the time of the next step, whose line says how much."""
        began = time.monotonic()
        yield
        self._stall_s += time.monotonic() - began

    def enqueue(self, step: int) -> Pending:
        """Forward, backward and update of one step."""
        watchdog.beat("a step of training")
        batch = self.batches.next()
        with self._forward.timed() as forward:
            first = self._losses(batch, self._chunks[0][0])
        loss, losses, scalars = self._backward(batch, first)
        if batch.cache is not None:
            scalars |= cache_scalars(batch.cache, self.rank_info.rank, self.device)
        lr, decay = self.schedule.learning_rate(step), self.schedule.weight_decay(step)
        vector = self.engine.step(lr, decay, self._vector.pack(loss, self._rank_stats(batch), scalars))
        momentum = None
        if isinstance(self.method, AfterStep):
            update = self.method.after_step(step, self.schedule.total_steps)
            self.engine.lerp(update.targets, update.sources, update.weight)
            momentum = 1 - update.weight
        on_host = self._on_host(vector)
        stall_s, self._stall_s = self._stall_s, 0.0
        return Pending(
            step,
            *on_host,
            lr,
            decay,
            batch.numbers,
            losses,
            self._vector.scalars,
            momentum=momentum,
            map_pass=batch.map_pass,
            stall_s=stall_s,
            forward=forward,
        )

    def _on_host(self, vector: Tensor) -> "tuple[Tensor, torch.cuda.Event | None]":
        """The vector's copy on the host, and the event after which it is complete.

        The copy is enqueued here, right behind the step. Streams run in order: a copy made when the vector is read
        would lie behind the next step, which is enqueued by then, and reading would wait for that step too. The memory
        is pinned because a copy to pageable memory blocks the host, and new for each step because the copy of one step
        is read while that of the next is on its way.
        """
        if self.device.type != "cuda":
            return vector, None
        host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
        host.copy_(vector, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return host, event

    def _uploaded(self, array: NDArray[Any]) -> Tensor:
        """The array on the device.

        From pageable memory a large copy would wait for all work enqueued before. The pinned block may be released
        while the copy is on its way: torch's pinned allocator records the stream and hands it out again only after.
        """
        tensor = torch.from_numpy(array)
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)

    def _backward(self, batch: HostBatch, first: Losses) -> tuple[Tensor, list[Tensor], dict[str, Tensor]]:
        """Gradients of the rank's share.

        Args:
            first: the losses of its first micro-batch.

        Returns:
            The sum of its groups' losses, those losses by micro-batch, and each scalar's (sum, count); on the device.
        """
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        of_groups: list[Tensor] = []
        scalars: dict[str, Tensor] = {}
        for number, (samples, kept) in enumerate(self._chunks):
            losses = first if number == 0 else self._losses(batch, samples)
            share = torch.where(kept, losses.groups, 0.0).sum()
            # engines average over ranks, and a step's loss is the mean over all its groups
            scale = self.rank_info.ranks * self.group / self.job.batch.size
            self.engine.backward(scale * share, last=number == self.micro.count - 1)
            total += share.detach().double()
            of_groups.append(losses.groups.detach())
            for name, pairs in losses.scalars.items():
                pair = torch.where(kept[:, None], pairs.detach(), 0.0).double().sum(0)
                scalars[name] = scalars[name] + pair if name in scalars else pair
        return total, of_groups, scalars

    @cached_property
    def _chunks(self) -> list[tuple[NDArray[np.int64], Tensor]]:
        """Of each micro-batch the indexes of its samples in the rank's batch, and which of its groups count."""
        order, real = padded(self.groups, self.micro)
        indexes = np.add.outer(np.array(order) * self.group, np.arange(self.group)).reshape(self.micro.count, -1)
        counts = torch.tensor(real, device=self.device).view(self.micro.count, -1)
        return list(zip(indexes, counts.unbind(), strict=True))

    def _losses(self, batch: HostBatch, samples: NDArray[np.int64]) -> Losses:
        clean, draws = method_inputs(self.job, self.method, batch, samples, upload=self._uploaded, device=self.device)
        return self.method.loss(self.engine.forward, clean, draws)

    def _rank_stats(self, batch: HostBatch) -> RankStats:
        now, before = time.monotonic(), self._enqueued_at
        self._enqueued_at = now
        return RankStats(
            notice=self.stop_request.stop == "notice",
            cancelled=self.stop_request.stop == "cancelled",
            save=self.rank_info.rank == 0 and self.save_due(),
            unchecked=batch.unchecked,
            damaged=batch.damaged,
            reads_in_flight=batch.reads_in_flight,
            read_ahead_bytes=batch.read_ahead_bytes,
            retries=self._retries.take(),
            data_wait_s=batch.wait_s,
            step_s=now - before,
            own_s=batch.wait_s + self._forward.seconds,
            bad_sample=self.limit.encode(batch.bad),
            bad=self.limit.counts(batch.bad),
        )

    def read_step(self, pending: Pending) -> Report:
        """Wait for a step and read its vector.

        Raises:
            DataError: on all ranks alike: a corpus has more bad samples than the run tolerates.
        """
        if pending.event is not None:
            pending.event.synchronize()
        self._forward.read(pending.forward)
        stats = self._vector.unpack(pending.vector.numpy(), pending.scalars)
        skip = None if stats.finite else self._skip(pending, stats)
        self.skips_in_a_row = self.skips_in_a_row + 1 if skip else 0
        if skip:
            self.skipped_steps.append(skip.step)
        self.unchecked += stats.unchecked
        self.waited_s += stats.data_wait_s
        self.bad = [count + more for count, more in zip(self.bad, stats.bad, strict=True)]
        self.stragglers.add(stats.own_s, stats.step_s)
        self.limit.check(self.bad, stats.bad_samples)
        return Report(self._line(pending, stats), self._stop(stats), stats.save > 0, skip)

    def _skip(self, pending: Pending, stats: StepStats) -> Skip:
        """What is known of a skipped step. Reading this rank's losses waits for the device, which a skip may cost."""
        batch = self.job.batch.size
        own: set[int] = set()
        for (samples, kept), losses in zip(self._chunks, pending.losses, strict=True):
            bad = (kept & ~torch.isfinite(losses)).cpu().numpy()
            own.update(pending.numbers[samples.reshape(-1, self.group)[bad]].reshape(-1).tolist())
        samples_of_step = (pending.step * batch, (pending.step + 1) * batch - 1)
        return Skip(pending.step, stats.first_not_finite(self.engine.names), samples_of_step, sorted(own))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        return {
            "adam_step": self.engine.adam_step,
            "skips_in_a_row": int(self.engine.skips_in_a_row),
            "skipped_steps": list(self.skipped_steps),
            "bad": list(self.bad),
            "unchecked": self.unchecked,
        }

    def _stop(self, stats: StepStats) -> LoopResult:
        if self.skips_in_a_row >= SKIPS_LATCH:
            return "not_finite"
        if stats.cancelled:
            return "cancelled"
        return "notice" if stats.notice else ""

    def _line(self, pending: Pending, stats: StepStats) -> dict[str, Any]:
        batch = self.job.batch.size
        scalars = {name: _number(total / count) for name, (total, count) in stats.scalars.items() if count}
        known = {"momentum": pending.momentum, "map_pass": pending.map_pass}
        return {
            **scalars,
            **{name: value for name, value in known.items() if value is not None},
            "step": pending.step,
            "samples": (pending.step + 1) * batch,
            "batch": batch,
            "loss": _number(stats.loss * self.group / batch),
            "grad_norm": _number(stats.squares.sum() ** 0.5),
            "lr": pending.lr,
            "wd": pending.weight_decay,
            "attempt": self.attempt,
            "time": time.time(),
            "unchecked": stats.unchecked,
            "samples_per_s": batch / stats.step_s,
            "data_wait_s": stats.data_wait_s,
            "step_s": stats.step_s,
            "checkpoint_stall_s": pending.stall_s,
            "reads_in_flight": stats.reads_in_flight / self.rank_info.ranks,
            "read_ahead_bytes": stats.read_ahead_bytes / self.rank_info.ranks,
            "retries": stats.retries,
            "damaged": stats.damaged,
            "slow_ranks": list(self.stragglers.slow),
            "skipped": not stats.finite,
        }


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def padded(groups: int, micro: MicroBatches) -> tuple[list[int], list[bool]]:
    """Which of a rank's groups each slot of its micro-batches holds; slots beyond them hold copies of the first.

    All ranks must run equally many micro-batches of one shape: in a collective that some rank does not enter, the
    others would wait for ever. Copies are computed, and count for nothing.

    Returns:
        A group for each slot, and whether the slot counts.
    """
    slots = micro.count * micro.groups_per_micro
    return [*range(groups), *([0] * (slots - groups))], [True] * groups + [False] * (slots - groups)
