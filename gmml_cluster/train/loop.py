"""The training loop: one step after the other, read one step late, saved on a step's boundary.

Nothing inside a step waits for the device: reading a step's result at once would leave the device idle while Python
enqueues the next. So every rank enqueues step t first and then reads the summed vector (`step_stats.py`) of step t - 1,
for which the device has finished by then or soon will have. All ranks are late by the same one step and read the same
sums, so they take the same decisions at the same step. The price: when the sums of step t - 1 say "stop", step t has
been enqueued already. It is kept and counts (the checkpoint is of step t), except where the engine left its update out.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from gmml_cluster.train.evaluation import Evaluation
from gmml_cluster.train.ranks.watchdog import LONGEST_S, watchdog
from gmml_cluster.train.stepper import LoopResult, Pending, Report, Stepper


class Saving(Protocol):
    """What the loop needs of the saver."""

    def begin(self, step: int, state: dict[str, Any]) -> None: ...

    def check(self) -> None: ...

    def finish(self) -> None: ...


class Preparing(Protocol):
    """What the loop needs of what some steps wait for: `train/maps.py`."""

    def due(self, step: int) -> bool:
        """Whether something is to be made before this step, of the commit of the step before."""

    def make(self, step: int) -> LoopResult:
        """Make it; why the attempt is to stop instead, or empty."""


@dataclass(frozen=True)
class _Loop:
    """What `run` is called with, and the parts of a step."""

    stepper: Stepper
    saver: Saving
    total: int
    every_steps: int | None
    write: Callable[[Report], None]
    evaluation: Evaluation | None
    maps: Preparing | None

    def prepare(self, step: int) -> LoopResult:
        """Make what the step waits for, if anything; why the attempt is to stop instead, or empty."""
        if self.maps is None or not self.maps.due(step):
            return ""
        with self.stepper.left_out():
            watchdog.beat("a save", LONGEST_S)
            self.saver.finish()  # else the commit would not be in the log
            return self.maps.make(step)

    def is_saved(self, step: int) -> bool:
        """Whether the step is saved whatever its sums say."""
        by_number = self.every_steps is not None and (step + 1) % self.every_steps == 0
        needed = self.maps is not None and self.maps.due(step + 1)
        return step == self.total - 1 or by_number or needed or self._is_scored(step)

    def read(self, pending: Pending) -> Report:
        """Wait for a step that was enqueued, and write its report."""
        report = self.stepper.read_step(pending)
        self.write(report)
        return report

    def save(self, step: int) -> None:
        """Copy the state of the step, which was read; it is written while training goes on."""
        watchdog.beat("a save", LONGEST_S)
        with self.stepper.stalled():
            self.saver.begin(step, self.stepper.state())

    def score(self, step: int) -> LoopResult:
        """Score the weights behind the step, if they are to be; why the attempt is to stop before, or empty."""
        if self.evaluation is None or not self._is_scored(step):
            return ""
        with self.stepper.left_out():
            return self.evaluation.run(step, self.saver.finish)

    def _is_scored(self, step: int) -> bool:
        return self.evaluation is not None and self.evaluation.due(step)


def run(
    stepper: Stepper,
    saver: Saving,
    *,
    first: int,
    total: int,
    every_steps: int | None,
    write: Callable[[Report], None],
    evaluation: Evaluation | None = None,
    maps: Preparing | None = None,
) -> tuple[LoopResult, int]:
    """Train from step `first` to the end of the run, or to a stop; the state of the last step made is being saved.

    Args:
        write: called with the report of every step, in order.
        maps: makes what some steps wait for; the step before each is saved. None for none.
        evaluation: scores the weights behind some steps, whose state is being saved meanwhile; None for none.

    Returns:
        Why it ended, and the last step made.
    """
    loop = _Loop(stepper, saver, total, every_steps, write, evaluation, maps)
    behind: Pending | None = None
    for step in range(first, total):
        if early := loop.prepare(step):
            return early, step - 1
        ahead: Pending | None = stepper.enqueue(step)
        stop: LoopResult = ""
        save = loop.is_saved(step)
        if behind is not None:
            report = loop.read(behind)
            stop, save = report.stop, save or report.save or bool(report.stop)
            if stop == "not_finite":
                # The engine's own count on the device reached its limit at that step too, and the update of the step
                # ahead was left out: weights are those of `behind`, so the checkpoint is named by it.
                saver.begin(behind.step, stepper.state())
                return stop, behind.step
        if save and ahead is not None:
            # A checkpoint's counts (skips, bad samples) must include its own step, so the lag ends here: the step
            # ahead is read now, and the device idles for as long as the state is copied.
            report, ahead = loop.read(ahead), None
            stop = stop or report.stop
            loop.save(step)
        saver.check()
        is_complete = step == total - 1 and stop != "not_finite"
        if is_complete or not stop:
            stop = loop.score(step) or stop
        if is_complete:
            return "finished", step  # a notice that came in the last step changes nothing
        if stop:
            return stop, step
        behind = ahead
    raise ValueError(f"steps {first}..{total}: nothing to train; the caller ends such a run itself")
