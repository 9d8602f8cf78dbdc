"""What a rank records of a run that trains: metric lines, progress, skipped steps, commits."""

import json
import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from gmml_cluster.errors import Fault, StorageError
from gmml_cluster.run import protocol
from gmml_cluster.run.history import History
from gmml_cluster.run.log import Log
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.saving import retention
from gmml_cluster.run.saving.interval import between_interruptions_s, save_interval_s
from gmml_cluster.run.saving.space import room_lacking
from gmml_cluster.running_time import running_time
from gmml_cluster.spec.scalars import Interval
from gmml_cluster.store.protocol import Store
from gmml_cluster.train.checkpoints.clean_up import CleanUp
from gmml_cluster.train.checkpoints.save import Saved, Saver
from gmml_cluster.train.engines.gradients import SKIPS_LATCH
from gmml_cluster.train.ranks.log_upload import Parts
from gmml_cluster.train.ranks.rendezvous import KeyValueStore, RankInfo
from gmml_cluster.train.ranks.shutdown import Shutdown
from gmml_cluster.train.ranks.stragglers import STEPS
from gmml_cluster.train.stepper import Report, Skip

PROGRESS_S = 5.0
SAVE_AGAIN_S = 60.0
CLEAN_UP_S = 120.0
"""What a run that has ended waits for its last clean-up, as no other follows."""
_NAMED_SAMPLES = 64
_CURE = (
    "`gmml order` names the images of sample numbers; start a run with a lower optim.lr, a longer warm-up, "
    "optim.clip or engine.precision: fp32, from an earlier checkpoint by `init`; gmml resume tries the next steps; "
    "`gmml replay RUN --from {step}` computes these again"
)
_BUNDLED_LINES = 50
_SLOW = f"its own part of a step was at least a quarter longer than the median of all for {STEPS} steps"

_log = logging.getLogger(__name__)


@dataclass
class StepRecord:
    """Records each step's report: metric lines and progress on rank 0, skipped steps on every rank.

    Args:
        kv: the main thread's connection, by which rank 0 learns the samples that other ranks name.
        steps: of the whole run.
        store: the run root, where the bundle of an attempt that ends `not_finite` goes.
    """

    kv: KeyValueStore
    rank_info: RankInfo
    shutdown: Shutdown
    metrics: Parts
    steps: int
    store: Store
    attempt: int
    skips: list[Skip] = field(default_factory=list)
    _next_progress: float = 0.0
    _lines: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=_BUNDLED_LINES))
    _slow: list[int] = field(default_factory=list)
    _unnamed: list[int] = field(default_factory=list)

    def write(self, report: Report) -> None:
        """Called with every step's report, in order."""
        if report.skip is not None:
            self._warn(report.skip)
        self._name_slow(report.line["slow_ranks"])
        if self.rank_info.rank != 0:
            return
        step = report.line["step"]
        self.shutdown.last_step = step
        self.metrics.add(json.dumps(report.line))
        self._lines.append(report.line)
        if time.monotonic() >= self._next_progress or step == self.steps - 1:
            self._next_progress = time.monotonic() + PROGRESS_S
            _log.info("%s", progress(report.line, self.steps))

    def _name_slow(self, slow: Sequence[int]) -> None:
        """Say of each rank once that it has become slow: it itself, and rank 0 as soon as it learns the host."""
        new, own = [rank for rank in slow if rank not in self._slow], self.rank_info.rank
        self._slow = list(slow)
        if own in new:
            _log.warning("this rank, %d on %s, keeps the others waiting; %s", own, socket.gethostname(), _SLOW)
            self.kv.set(f"slow/{own}", socket.gethostname())
        if own == 0:
            self._unnamed += [rank for rank in new if rank != 0]
            known = {rank: host for rank in self._unnamed if (host := self.kv.get(f"slow/{rank}")) is not None}
            self._unnamed = [rank for rank in self._unnamed if rank not in known]
            for rank, host in known.items():
                _log.warning("rank %d on %s keeps the others waiting; %s", rank, host, _SLOW)

    def _warn(self, skip: Skip) -> None:
        self.skips.append(skip)
        if self.rank_info.rank != 0:
            self.kv.set(_key(skip, self.rank_info.rank), skip.own[:_NAMED_SAMPLES])
        if self.rank_info.rank == 0 or skip.own:
            _log.warning("%s%s; its update was skipped", skip, _of_groups(skip.own))

    def not_finite(self) -> str:
        """Rank 0's, after the last save: which steps ended the run and what to do.

        Every other rank has named its samples before its part of that save, so none is waited for.
        """
        last = self.skips[-SKIPS_LATCH:]
        samples = [self._samples(skip) for skip in last]
        self._bundle(last, samples)
        found = [f"{skip}{_of_groups(named)}" for skip, named in zip(last, samples, strict=True)]
        return str(
            Fault(
                "training",
                f"{len(last)} updates in a row were skipped: {'; '.join(found)}",
                _CURE.format(step=last[0].step),
            )
        )

    def _bundle(self, last: Sequence[Skip], samples: Sequence[list[int]]) -> None:
        """Keep what is known of the steps beside the attempt's metrics; the checkpoint of the last one is saved."""
        skipped = [
            {"step": skip.step, "what": skip.what, "samples": list(skip.samples), "groups_of": named}
            for skip, named in zip(last, samples, strict=True)
        ]
        document = {"version": 1, "checkpoint": last[-1].step, "skipped": skipped, "lines": list(self._lines)}
        try:
            self.store.put(f"attempts/{self.attempt:04d}/not_finite.json", json.dumps(document).encode())
        except StorageError as error:
            _log.warning("%s; what is known of the skipped steps is in the log of this rank alone", error)

    def _samples(self, skip: Skip) -> list[int]:
        others = [self.kv.get(_key(skip, rank)) or [] for rank in range(1, self.rank_info.ranks)]
        return sorted({*skip.own, *(number for numbers in others for number in numbers)})


def _key(skip: Skip, rank: int) -> str:
    return f"skip/{skip.step}/{rank}"


def _of_groups(samples: list[int]) -> str:
    if not samples:
        return ""
    more = f" and {len(samples) - _NAMED_SAMPLES} more" if len(samples) > _NAMED_SAMPLES else ""
    return f", in the groups of samples {', '.join(map(str, samples[:_NAMED_SAMPLES]))}{more}"


def progress(line: dict[str, Any], steps: int) -> str:
    """One line for people: step from 0, as in status and checkpoints, loss, rate, wait, time left."""
    left = (steps - 1 - line["step"]) * line["batch"] / line["samples_per_s"]
    loss = "not finite" if line["loss"] is None else f"{line['loss']:.4f}"
    wait = 100 * line["data_wait_s"] / line["step_s"]
    rate, time_left = f"{line['samples_per_s']:,.0f} img/s", timedelta(seconds=round(left))
    return f"step {line['step']} of {steps} loss {loss} {rate} wait {wait:.0f}% left {time_left}"


@dataclass
class Commits:
    """Rank 0's: appends `commit` for each checkpoint, and drops old ones behind it.

    Args:
        first: the first step of this attempt.
    """

    run: RunRoot
    attempt: int
    metrics: Parts
    keep: int
    keep_every: int | None
    first: int
    _tidied: bool = False
    _own: Log | None = None

    def __post_init__(self) -> None:
        self._clean_up = CleanUp(self._delete)

    def append(self, saved: Saved, state: dict[str, Any]) -> None:
        """Called in the saving thread, when all files of a checkpoint and its manifest are written."""
        self.metrics.publish()  # first: no step that the log knows lacks its line
        protocol.commit(
            self.run.log,
            self.attempt,
            step=saved.step,
            manifest=saved.manifest_sha256,
            size=saved.size,
            seconds=saved.seconds,
            skipped=[step for step in state["skipped_steps"] if step >= self.first],
            bad=state["bad"],
            unchecked=state["unchecked"],
            data_wait_s=saved.spent.data_wait_s,
            stall_s=saved.spent.stall_s,
            suspended_s=running_time.stopped_s,
        )
        self.first = saved.step + 1
        _log.info("checkpoint of step %d committed: %.1f MB in %.1f s", saved.step, saved.size / 1e6, saved.seconds)
        self._clean_up.ask()

    def finish(self) -> None:
        """Wait until what need not stay is deleted; for an attempt that no other follows."""
        self._clean_up.wait(CLEAN_UP_S)

    def _delete(self) -> None:
        # with a log of its own: while the store does not answer the other one's lock is held for minutes
        log = self._own = self._own or Log(self.run.store)
        retention.retire(self.run.store, log, self.attempt, keep=self.keep, keep_every=self.keep_every)
        if not self._tidied:
            retention.discard_parts(self.run.store, log, self.attempt)
            self._tidied = True
        if lacking := room_lacking(self.run.url, log.refresh().commits[-1].size):
            _log.warning("%s", lacking)


def save_clock(every: Interval, history: History, saver: Saver) -> Callable[[], bool]:
    """Rank 0's: whether a save is due by time: by the job's word, or as the last one failed a minute ago."""

    def due() -> bool:
        if saver.busy:
            return False
        if saver.failed is not None:
            return saver.age_s >= SAVE_AGAIN_S
        if every.steps is not None:
            return False
        between_s = between_interruptions_s(history, time.time())
        return saver.age_s >= (every.seconds or save_interval_s(saver.cost_s, between_s))

    return due
