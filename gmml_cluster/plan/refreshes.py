"""At which steps AMT's maps are made anew, and from which step on they are read (docs/reference/maps.md)."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import count, takewhile

from gmml_cluster.plan.sample_layout import SampleLayout
from gmml_cluster.plan.steps import begins_at
from gmml_cluster.spec.scalars import Length


@dataclass(frozen=True)
class Refreshes:
    """When maps are made.

    Attributes:
        start: the first step that reads maps, if there are any by then.
        steps: rising, each above 0: before each of them maps are made, of the commit of the step before it.
    """

    start: int
    steps: tuple[int, ...]

    def at(self, step: int) -> int | None:
        """The step whose maps this step reads; None where it reads none."""
        known = bisect_right(self.steps, step)
        return None if step < self.start or not known else self.steps[known - 1]

    def number(self, step: int) -> int:
        """Which pass, counted from 1, is made before a step of `steps`."""
        return self.steps.index(step) + 1


def refreshes(start: Length, interval: Length, layout: SampleLayout, steps: int) -> Refreshes:
    """Before steps ceil(k interval), k = 1, 2, .., below the run's steps, less those replaced before `start`.

    Args:
        start: until then no maps are read.
        interval: above 0.
        layout: the run's.
        steps: of the run.
    """
    first = begins_at(start, layout)
    if begins_at(interval, layout) == 1:  # a step or less: every step is one
        made = list(range(1, steps))
    else:
        made = list(takewhile(lambda step: step < steps, (begins_at(interval, layout, k) for k in count(1))))
    # not of `steps`, which may grow: the maps that hold at `start` are then made already
    unread = max(0, bisect_right(made, first) - 1)
    return Refreshes(first, tuple(made[unread:]))
