"""What a step of each method costs, kept beside the accuracies: measured in one run of `benchmarks.step_cost`."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.rows import Ratio

COSTS = Path(__file__).with_name("costs.json")


@dataclass(frozen=True)
class Cost:
    """Of one method's step.

    Attributes:
        images_s: images a second, median of the rounds.
        over_mae: seconds of a step over those of one of MAE.
        arithmetic: the same ratio by the plan's operations.
    """

    images_s: float
    over_mae: Ratio
    arithmetic: float

    @property
    def cells(self) -> tuple[str, str, str]:
        """As tables show it."""
        return f"{self.images_s:.{0 if self.images_s >= 10 else 1}f}", str(self.over_mae), f"{self.arithmetic:.2f}"


def keep_costs(costs: Mapping[str, Cost]) -> None:
    """Write them into the file, by method."""
    COSTS.write_text(json.dumps({name: asdict(cost) for name, cost in costs.items()}, indent=1) + "\n")


def kept_costs() -> dict[str, Cost]:
    """What is in the file."""
    entries = json.loads(COSTS.read_text())
    return {name: Cost(**{**entry, "over_mae": Ratio(**entry["over_mae"])}) for name, entry in entries.items()}
