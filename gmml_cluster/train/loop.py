"""The training loop: one step after the other, read one step late, saved on a step's boundary.

Nothing inside a step waits for the device: reading a step's result at once would leave the device idle while Python
enqueues the next. So every rank enqueues step t first and then reads the summed vector (`step_stats.py`) of step t - 1,
for which the device has finished by then or soon will have. All ranks are late by the same one step and read the same
sums, so they take the same decisions at the same step. The price: when the sums of step t - 1 say "stop", step t has
been enqueued already. It is kept and counts (the checkpoint is of step t), except where the engine left its update out.
"""

from collections.abc import Callable
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
    behind: Pending | None = None
    for step in range(first, total):
        if maps is not None and maps.due(step):
            with stepper.left_out():
                watchdog.beat("a save", LONGEST_S)
                saver.finish()  # else the commit would not be in the log
                early = maps.make(step)
            if early:
                return early, step - 1
        ahead: Pending | None = stepper.enqueue(step)
        stop: LoopResult = ""
        scored = evaluation is not None and evaluation.due(step)
        save = step == total - 1 or scored or (every_steps is not None and (step + 1) % every_steps == 0)
        save = save or (maps is not None and maps.due(step + 1))
        if behind is not None:
            report = stepper.read_step(behind)
            write(report)
            stop, save = report.stop, save or report.save or bool(report.stop)
            if stop == "not_finite":
                # The engine's own count on the device reached its limit at that step too, and the update of the step
                # ahead was left out: weights are those of `behind`, so the checkpoint is named by it.
                saver.begin(behind.step, stepper.state())
                return stop, behind.step
        if save and ahead is not None:
            # A checkpoint's counts (skips, bad samples) must include its own step, so the lag ends here: the step
            # ahead is read now, and the device idles for as long as the state is copied.
            report = stepper.read_step(ahead)
            write(report)
            stop, ahead = stop or report.stop, None
            watchdog.beat("a save", LONGEST_S)
            with stepper.stalled():
                saver.begin(step, stepper.state())
        saver.check()
        if evaluation is not None and scored and (not stop or (step == total - 1 and stop != "not_finite")):
            with stepper.left_out():
                stop = evaluation.run(step, saver.finish) or stop
        if step == total - 1 and stop != "not_finite":
            return "finished", step  # the run is complete: a notice that came in the last step changes nothing
        if stop:
            return stop, step
        behind = ahead
    raise ValueError(f"steps {first}..{total}: nothing to train; the caller ends such a run itself")
