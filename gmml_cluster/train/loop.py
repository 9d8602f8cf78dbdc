"""The loop: one step after the other, read one step late, saved on a step's boundary.

Nothing inside a step waits for the device. After enqueueing step t every rank reads the reduced vector of step t - 1;
as the vector is the same on all ranks, so is every decision taken from it.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.reader.bad_samples import Limit
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.methods.protocol import AfterStep, Losses, Method
from gmml_cluster.plan.sample_layout import MicroBatches
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.engines.engine import Engine
from gmml_cluster.train.engines.gradients import SKIPS_LATCH
from gmml_cluster.train.engines.schedule import Schedule
from gmml_cluster.train.ranks.rendezvous import RankInfo
from gmml_cluster.train.ranks.signals import StopRequest

LoopResult = Literal["", "finished", "notice", "cancelled", "not_finite"]
_FIXED = ("loss", "notice", "cancelled", "save", "unchecked", "damaged", "reads_in_flight", "read_ahead_bytes")
_OWN = 3  # seconds waited for data, seconds of the step, and the name of a bad sample that the rank met


class Batches(Protocol):
    """Where the rank's images of the next step come from."""

    def next(self) -> HostBatch: ...


@dataclass(frozen=True)
class Pending:
    """A step that was enqueued and whose vector has not been read.

    Attributes:
        vector: on the host; complete when the event is.
    """

    step: int
    vector: Tensor
    event: "torch.cuda.Event | None"
    lr: float
    weight_decay: float


@dataclass(frozen=True)
class Report:
    """What the vector of a step says, equal on all ranks.

    Attributes:
        line: the step's metric line.
        stop: why the loop is to stop, or "".
        save: whether a save by time is due.
    """

    line: dict[str, Any]
    stop: LoopResult
    save: bool
    skipped: bool


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
        unchecked: samples that were read without a CRC, up to the last step read.
    """

    job: JobSpec
    method: Method
    engine: Engine
    batches: Batches
    course: Schedule
    micro: MicroBatches
    groups: int
    group: int
    place: RankInfo
    device: torch.device
    orders: StopRequest
    limit: Limit
    attempt: int
    save_due: Callable[[], bool] = lambda: False
    skipped_steps: list[int] = field(default_factory=list)
    skips_in_a_row: int = 0
    bad: list[int] = field(default_factory=list)
    unchecked: int = 0
    _scalars: tuple[str, ...] = ()
    _enqueued_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.bad = self.bad or [0] * self.limit.corpora

    def enqueue(self, step: int) -> Pending:
        """Forward, backward and update of one step."""
        batch = self.batches.next()
        loss, scalars = self._backward(batch)
        lr, decay = self.course.learning_rate(step), self.course.weight_decay(step)
        vector = self.engine.step(lr, decay, self._extras(batch, loss, scalars))
        if isinstance(self.method, AfterStep):
            follow = self.method.after_step(step, self.course.total_steps)
            self.engine.lerp(follow.targets, follow.sources, follow.weight)
        return Pending(step, *self._on_host(vector), lr, decay)

    def _on_host(self, vector: Tensor) -> "tuple[Tensor, torch.cuda.Event | None]":
        """The vector's copy on the host, enqueued here: one made when it is read would wait for the step after too."""
        if self.device.type != "cuda":
            return vector, None
        host = torch.empty(vector.shape, dtype=vector.dtype, pin_memory=True)
        host.copy_(vector, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        return host, event

    def _uploaded(self, array: NDArray[Any]) -> Tensor:
        """The array on the device; from pageable memory a large copy would wait for all work enqueued before."""
        tensor = torch.from_numpy(array)
        pinned = tensor.pin_memory() if self.device.type == "cuda" else tensor
        return pinned.to(self.device, non_blocking=True)

    def _backward(self, batch: HostBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Gradients of the rank's share.

        Returns:
            The sum of its groups' losses, and each scalar's (sum, count), on the device.
        """
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        scalars: dict[str, Tensor] = {}
        for index, (samples, kept) in enumerate(self._chunks):
            losses = self._losses(batch, samples)
            share = torch.where(kept, losses.groups, 0.0).sum()
            scale = self.place.ranks * self.group / self.job.batch.size
            self.engine.backward(scale * share, last=index == self.micro.count - 1)
            loss += share.detach().double()
            for name, pairs in losses.scalars.items():
                total = torch.where(kept[:, None], pairs.detach(), 0.0).double().sum(0)
                scalars[name] = scalars[name] + total if name in scalars else total
        return loss, scalars

    @cached_property
    def _chunks(self) -> list[tuple[NDArray[np.int64], Tensor]]:
        """Of each micro-batch the places of its samples in the rank's batch, and which of its groups count."""
        order, real = padded(self.groups, self.micro)
        places = np.add.outer(np.array(order) * self.group, np.arange(self.group)).reshape(self.micro.count, -1)
        counts = torch.tensor(real, device=self.device).view(self.micro.count, -1)
        return list(zip(places, counts.unbind(), strict=True))

    def _losses(self, batch: HostBatch, samples: NDArray[np.int64]) -> Losses:
        numbers, images = self._uploaded(batch.numbers[samples]), self._uploaded(batch.images[samples])
        data = self.job.data
        clean = prepare(images, numbers, seed=self.job.seed, augment=data.augment, normalise=data.normalise)
        return self.method.loss(self.engine.forward, clean, self.method.draw(numbers, self.device))

    def _extras(self, batch: HostBatch, loss: Tensor, scalars: dict[str, Tensor]) -> Tensor:
        self._scalars = tuple(sorted(scalars))
        now = time.monotonic()
        own = np.zeros((self.place.ranks, _OWN))
        own[self.place.rank] = batch.wait_s, now - self._enqueued_at, self.limit.encode(batch.bad)
        self._enqueued_at = now
        save = self.place.rank == 0 and self.save_due()
        stop = self.orders.stop
        reading = [batch.unchecked, batch.damaged, batch.reads_in_flight, batch.read_ahead_bytes]
        fixed = [stop == "notice", stop == "cancelled", save, *reading]
        host = [*fixed, *own.flat, *self.limit.counts(batch.bad)]
        told = torch.tensor(host, dtype=torch.float64).to(self.device, non_blocking=True)
        return torch.cat([loss[None], told, *(scalars[name] for name in self._scalars)])

    def settle(self, pending: Pending) -> Report:
        """Wait for a step and read its vector.

        Raises:
            DataError: on all ranks alike: a corpus has more bad samples than the run tolerates.
        """
        if pending.event is not None:
            pending.event.synchronize()
        values = pending.vector.numpy()
        skipped = not bool(np.isfinite(values).all())
        self.skips_in_a_row = self.skips_in_a_row + 1 if skipped else 0
        if skipped:
            self.skipped_steps.append(pending.step)
        norms, fixed, own, bad, pairs = self._parts(values)
        told = dict(zip(_FIXED, fixed.tolist(), strict=True))
        self.unchecked += int(told["unchecked"])
        self.bad = [count + int(more) for count, more in zip(self.bad, bad, strict=True)]
        wait_s, step_s, named = own.reshape(-1, _OWN).T
        self.limit.check(self.bad, named.astype(int).tolist())
        line = {
            **self._line(pending, norms, told, pairs.reshape(-1, 2)),
            "samples_per_s": self.job.batch.size / float(step_s.max()),
            "data_wait_s": float(wait_s.max()),
            "step_s": float(step_s.max()),
            "reads_in_flight": told["reads_in_flight"] / self.place.ranks,
            "read_ahead_bytes": told["read_ahead_bytes"] / self.place.ranks,
            "skipped": skipped,
        }
        return Report(line, self._stop(told), told["save"] > 0, skipped)

    def _parts(self, values: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """The vector's parts: squares of norms, sums of `_FIXED`, ranks' own figures, bad samples, scalars."""
        sizes = [len(_FIXED), self.place.ranks * _OWN, self.limit.corpora, 2 * len(self._scalars)]
        return np.split(values, np.cumsum([len(values) - sum(sizes), *sizes[:-1]]))

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds beside tensors."""
        return {
            "adam_step": self.engine.adam_step,
            "skips_in_a_row": int(self.engine.skips_in_a_row),
            "skipped_steps": list(self.skipped_steps),
            "bad": list(self.bad),
            "unchecked": self.unchecked,
        }

    def _stop(self, told: dict[str, float]) -> LoopResult:
        if self.skips_in_a_row >= SKIPS_LATCH:
            return "not_finite"
        if told["cancelled"] > 0:
            return "cancelled"
        return "notice" if told["notice"] > 0 else ""

    def _line(self, pending: Pending, norms: Any, told: dict[str, float], pairs: Any) -> dict[str, Any]:
        scalars = {
            name: _number(total / count) for name, (total, count) in zip(self._scalars, pairs, strict=True) if count
        }
        line = {
            "step": pending.step,
            "samples": (pending.step + 1) * self.job.batch.size,
            "batch": self.job.batch.size,
            "loss": _number(told["loss"] * self.group / self.job.batch.size),
            "grad_norm": _number(norms.sum() ** 0.5),
            "lr": pending.lr,
            "wd": pending.weight_decay,
            "attempt": self.attempt,
            "unchecked": int(told["unchecked"]),
            "damaged": int(told["damaged"]),
        }
        return {**scalars, **line}


def _number(value: Any) -> float | None:
    """A float that JSON can hold; None where it is not finite."""
    return float(value) if math.isfinite(value) else None


def padded(groups: int, micro: MicroBatches) -> tuple[list[int], list[bool]]:
    """Which of a rank's groups each place of its micro-batches holds; places beyond them hold copies of the first.

    Returns:
        A group for each place, and whether the place counts.
    """
    places = micro.count * micro.groups_per_micro
    return [*range(groups), *([0] * (places - groups))], [True] * groups + [False] * (places - groups)


class Saving(Protocol):
    """What the loop needs of the saver."""

    def begin(self, step: int, state: dict[str, Any]) -> None: ...

    def check(self) -> None: ...


def run(
    stepper: Stepper, saver: Saving, *, first: int, total: int, every_steps: int | None, write: Callable[[Report], None]
) -> tuple[LoopResult, int]:
    """Train from step `first` to the end of the run, or to a stop; the state of the last step made is being saved.

    Returns:
        Why it ended, and the last step made.
    """
    behind: Pending | None = None
    for step in range(first, total):
        ahead: Pending | None = stepper.enqueue(step)
        stop: LoopResult = ""
        save = step == total - 1 or (every_steps is not None and (step + 1) % every_steps == 0)
        if behind is not None:
            report = stepper.settle(behind)
            write(report)
            stop, save = report.stop, save or report.save or bool(report.stop)
            if stop == "not_finite":  # the engine has changed nothing since that step
                saver.begin(behind.step, stepper.state())
                return stop, behind.step
        if save and ahead is not None:
            report = stepper.settle(ahead)
            write(report)
            stop, ahead = stop or report.stop, None
            saver.begin(step, stepper.state())
        saver.check()
        if step == total - 1 and stop != "not_finite":
            return "finished", step
        if stop:
            return stop, step
        behind = ahead
    raise ValueError(f"steps {first}..{total}: nothing to train; the caller ends such a run itself")
