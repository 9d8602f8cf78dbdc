"""What `gmml drill` does to a run: named in the environment of its ranks, who do it to themselves.

So a drill needs no access to the nodes and is the same on every launcher. The first attempt alone is disturbed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

VARIABLE = "GMML_DRILL"
LASTS_S = 20.0
"""How long the disk stays full and the store cut off."""

Kind = Literal["preempt", "kill", "hang", "disk", "store"]
KINDS: tuple[Kind, ...] = get_args(Kind)
WHAT: Mapping[Kind, str] = {
    "preempt": "notice to every rank",
    "kill": "kill -9 of a rank",
    "hang": "a rank stands still",
    "disk": "the disk of the run is full",
    "store": "the store is cut off",
}


@dataclass(frozen=True)
class Drill:
    """One disturbance.

    Attributes:
        step: behind which it comes.
    """

    kind: Kind
    step: int

    def __str__(self) -> str:
        """As the variable has it."""
        return f"{self.kind} {self.step}"

    @classmethod
    def asked(cls, environment: Mapping[str, str], attempt: int) -> "Drill | None":
        """What is to be done to this attempt; None for nothing."""
        if VARIABLE not in environment or attempt != 1:
            return None
        kind, step = environment[VARIABLE].split()
        return next((cls(known, int(step)) for known in KINDS if known == kind), None)
