"""Learning rate and weight decay of each step (docs/reference/methods.md).

Both are pure functions in float64. A step's values depend on the step alone, so nothing of a schedule is saved.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from gmml_cluster.spec.job import Optim
from gmml_cluster.spec.methods.capi import COSINE_SHARE


def _half_cosine(base: float, final: float, progress: float) -> float:
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * progress))


def steps_schedule(
    step: int,
    *,
    base: float,
    final: float,
    warmup_steps: int,
    total_steps: int,
    start: float = 0.0,
    share: float = 1.0,
) -> float:
    """`schedule.law: steps`: linear warm-up that reaches `base` on its last step, then a half cosine to `final`.

    The cosine begins at `base` too, so `base` is taken twice; `final` is reached on step `total_steps` and kept from
    there on. A warm-up of one step is one step at `start`, as in GMML's released code. With a `share` below 1 the
    cosine runs through that share of its half turn alone, and stays where that ends.
    """
    if step < warmup_steps:
        return start + (base - start) * (step / (warmup_steps - 1)) if warmup_steps > 1 else start
    if step >= total_steps:
        return _half_cosine(base, final, share)
    return _half_cosine(base, final, share * (step - warmup_steps) / (total_steps - warmup_steps))


def fractional_schedule(
    step: int, *, base: float, final: float, warmup_steps: int, total_steps: int, start: float = 0.0
) -> float:
    """`schedule.law: fractional`: linear warm-up that reaches `base` on the step after it, then a half cosine.

    MAE's released code evaluates this at fractions of an epoch; at a step's start both are the same number.
    """
    if step < warmup_steps:
        return start + (base - start) * step / warmup_steps
    if step >= total_steps:
        return final
    return _half_cosine(base, final, (step - warmup_steps) / (total_steps - warmup_steps))


def next_schedule(
    step: int, *, base: float, final: float, warmup_steps: int, total_steps: int, start: float = 0.0
) -> float:
    """`schedule.law: next`: `fractional` of the next step, as I-JEPA's released code counts before it sets a rate."""
    lengths = {"warmup_steps": warmup_steps, "total_steps": total_steps}
    return fractional_schedule(step + 1, base=base, final=final, start=start, **lengths)


def quarter_schedule(
    step: int, *, base: float, final: float, warmup_steps: int, total_steps: int, start: float = 0.0
) -> float:
    """`schedule.law: quarter`: linear warm-up, then a quarter of a cosine that is counted from step 0.

    As in RelViT's released code: where the two meet the rate falls at once, by 1.2 per cent after a tenth of the steps.
    """
    if step < warmup_steps:
        return start + (base - start) * step / warmup_steps
    if step >= total_steps:
        return final
    return final + (base - final) * math.cos(math.pi * step / (2 * total_steps))


def tenth_schedule(
    step: int, *, base: float, final: float, warmup_steps: int, total_steps: int, start: float = 0.0
) -> float:
    """`schedule.law: tenth`: linear warm-up, then `base`, and a tenth of it from 7/8 of the steps on.

    SimMIM's released code drops at epoch 700 of 800. It sets the rate after each update, so that all of it comes one
    step later there. `final` is not read.
    """
    if step < warmup_steps:
        return start + (base - start) * step / warmup_steps
    return base if 8 * step < 7 * total_steps else base / 10


_SCHEDULES: dict[str, Callable[..., float]] = {
    "steps": steps_schedule,
    "fractional": fractional_schedule,
    "next": next_schedule,
    "quarter": quarter_schedule,
    "tenth": tenth_schedule,
    "truncated": partial(steps_schedule, share=COSINE_SHARE),
}


def peak_learning_rate(optim: Optim, batch: int) -> float:
    """The learning rate after warm-up: `lr` scaled to the images of a step, or as it is where `lr_per` is null."""
    return optim.peak_lr(batch)


def learning_rate(optim: Optim, step: int, *, batch: int, warmup_steps: int, total_steps: int) -> float:
    """The learning rate of a step.

    Args:
        optim: base rate and schedule.
        step: counted from 0.
        batch: images a step.
        warmup_steps: length of the warm-up.
        total_steps: length of the schedule.
    """
    schedule, base = _SCHEDULES[optim.schedule.law], peak_learning_rate(optim, batch)
    ends = {"base": base, "start": optim.schedule.start_lr, "final": optim.schedule.final_lr}
    return schedule(step, **ends, warmup_steps=warmup_steps, total_steps=total_steps)


def weight_decay(optim: Optim, step: int, *, total_steps: int) -> float:
    """The weight decay of a step: `steps` without warm-up. AdamW multiplies it by the scheduled learning rate."""
    decay = optim.weight_decay
    if optim.schedule.law == "next":
        step += 1
    return steps_schedule(step, base=decay.start, final=decay.end, warmup_steps=0, total_steps=total_steps)


@dataclass(frozen=True)
class Schedule:
    """Learning rate and weight decay of every step of a run.

    Attributes:
        batch: images a step.
        warmup_steps: length of the warm-up.
        total_steps: length of the schedule, which may be shorter or longer than the run.
    """

    optim: Optim
    batch: int
    warmup_steps: int
    total_steps: int

    @classmethod
    def of(cls, optim: Optim, *, batch: int, run_steps: int, epoch_steps: float) -> "Schedule":
        """The schedule of a run of `run_steps` steps, where an epoch of the first corpus is `epoch_steps` steps."""
        warmup = optim.schedule.warmup.in_steps(batch=batch, epoch_steps=epoch_steps)
        samples = optim.schedule.samples
        return cls(optim, batch, warmup, run_steps if samples is None else -(-samples // batch))

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        lengths = {"warmup_steps": self.warmup_steps, "total_steps": self.total_steps}
        return learning_rate(self.optim, step, batch=self.batch, **lengths)

    def weight_decay(self, step: int) -> float:
        """The weight decay of a step, counted from 0."""
        return weight_decay(self.optim, step, total_steps=self.total_steps)
