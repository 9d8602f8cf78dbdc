"""Steps of every engine: whether the host waits, what a NaN changes, whether two runs are equal bit for bit."""

import statistics
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu_check.result import Result, Setting, verdict
from benchmarks.gpu_check.training import STEPS, Trainer, make_trainer, process_group, same, small_job
from gmml_cluster.train.engines.gradients import SKIPS_LATCH
from gmml_cluster.train.ranks import groups
from gmml_cluster.train.stepper import Report

_FIRST_CHECKED = 2
"""Steps before this may wait: constants go to the device, and libraries set themselves up."""


class HostWaits:
    """torch's own check for operations that make the host wait, switched on for some steps of the loop.

    Args:
        mode: `error`, or `warn` where waits are known and only counted; empty on CPUs, which have nothing to wait for.
    """

    def __init__(self, mode: str) -> None:
        self._mode = mode
        self.found: list[str] = []

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Collects the warnings, and leaves torch's check off."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield
            finally:
                self.switch(False)
        self.found = [str(one.message) for one in caught if "synchronizing CUDA operation" in str(one.message)]

    def switch(self, on: bool) -> None:
        """Set torch's check for all that follows."""
        if self._mode:
            torch.cuda.set_sync_debug_mode(self._mode if on else "default")

    def after(self, report: Report) -> None:
        """To be called with each report: checks from `_FIRST_CHECKED` on, to the last step read.

        The report of a step is read behind the next step's launch; the state of the last step is copied behind its own
        report, and that copy may wait.
        """
        step = report.line["step"]
        if step == _FIRST_CHECKED - 1 or step == STEPS - 1:
            self.switch(step < STEPS - 1)


def steps(variant: str, setting: Setting) -> Result:
    """20 steps through the loop, none of which may make the host wait; at stage 3 DeepSpeed's waits are counted."""
    mode = "" if setting.device == "cpu" else "warn" if variant == "zero-3" else "error"
    waits = HostWaits(mode)
    with process_group(setting) as device:
        trainer = make_trainer(small_job(variant, setting), device)
        with waits.counted():
            result, last = trainer.train(0, STEPS, waits.after)
    losses = [line["loss"] for line in trainer.lines]
    problems = [] if (result, last) == ("finished", STEPS - 1) else [f"the loop ended with {result} at step {last}"]
    problems += [f"step {line['step']} was skipped" for line in trainer.lines if line["skipped"]]
    problems += ["a loss is not finite"] if None in losses else []
    checked = mode or "not checked on a CPU"
    step_s = statistics.median(line["step_s"] for line in trainer.lines[_FIRST_CHECKED:])
    figures = {"steps": len(losses), "first_loss": losses[0], "last_loss": losses[-1], "step_s": step_s}
    return verdict(problems, {**figures, "sync_debug_mode": checked, "waits": len(waits.found)})


def not_finite(variant: str, setting: Setting) -> Result:
    """A NaN in the loss: nothing of the state changes, and three in a row stop the loop at the state before them."""
    problems: list[str] = []
    with process_group(setting) as device:
        trainer = make_trainer(small_job(variant, setting), device)
        trainer.train(0, 3)
        before, count = trainer.state(), trainer.engine.adam_step
        trainer.poison.active = True
        trainer.train(3, 4)
        problems += _changes(trainer, before, count, "after one NaN")
        trainer.poison.active = False
        trainer.train(4, 6)
        if same(before, trainer.state()) or trainer.engine.adam_step != count + 2:
            problems.append("finite steps after a NaN were not applied")
        before, count = trainer.state(), trainer.engine.adam_step
        trainer.poison.active = True
        result, last = trainer.train(6, STEPS)
        if (result, last) != ("not_finite", 5 + SKIPS_LATCH):
            problems.append(f"the loop ended with {result!r} at step {last}")
        trainer.poison.active = False
        trainer.stepper.enqueue(STEPS)  # finite, but latched
        problems += _changes(trainer, before, count, "after the latch")
        skips = int(trainer.engine.skips_in_a_row)
    problems += [] if skips == SKIPS_LATCH else [f"the device counts {skips} skips in a row"]
    figures = {"skipped_steps": trainer.stepper.skipped_steps, "skips_in_a_row": skips, "adam_step": count}
    return verdict(problems, {**figures, "tensors": len(before)})


def _changes(trainer: Trainer, before: dict[Any, torch.Tensor], count: int, when: str) -> list[str]:
    problems = [] if same(before, trainer.state()) else [f"the state changed {when}"]
    after = trainer.engine.adam_step
    return problems + ([] if after == count else [f"Adam's step went from {count} to {after} {when}"])


def deterministic(variant: str, setting: Setting) -> Result:
    """`engine.deterministic`: nothing raises, two runs are equal bit for bit, and so is one resumed half way."""
    groups.be_deterministic()  # before the first product, as cuBLAS reads its setting once
    half = STEPS // 2
    with process_group(setting) as device:
        job = small_job(variant, setting)
        one, other = make_trainer(job, device), make_trainer(job, device)
        one.train(0, STEPS)
        other.train(0, half)
        state, counts = other.state(), other.stepper.state()
        other.train(half, STEPS)
        resumed = make_trainer(job, device, first=half)
        resumed.load(state, counts)
        resumed.train(half, STEPS)
        states = [trainer.state() for trainer in (one, other, resumed)]
    problems = [] if same(states[0], states[1]) else ["two runs differ"]
    problems += [] if same(states[0], states[2]) else ["the resumed run differs"]
    losses = [trainer.lines[-1]["loss"] for trainer in (one, other, resumed)]
    return verdict(problems, {"steps": STEPS, "last_losses": losses, "tensors": len(states[0])})
