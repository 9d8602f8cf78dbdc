"""What is done to the run, and when: drawn from the seed before it starts."""

import random
from dataclasses import dataclass
from typing import Literal

Kind = Literal["rank", "notice", "supervisor", "machine", "pause", "store", "outage", "disk"]
Moment = Literal["training", "saving", "starting"]

WHAT: dict[Kind, str] = {
    "rank": "kill -9 of a rank",
    "notice": "SIGTERM to every rank, as a scheduler gives notice",
    "supervisor": "kill -9 of the supervisor, then `gmml resume --all`",
    "machine": "kill -9 of the supervisor and all ranks at once, then `gmml resume --all`",
    "pause": "SIGSTOP of a rank, SIGCONT some seconds later",
    "store": "the next requests to the store are answered with 500, 503, 409, a reset or not at all",
    "outage": "every request to the store is reset, for some seconds",
    "disk": "the file system of the run is full, for some seconds",
}
ENDING: tuple[Kind, ...] = ("rank", "notice", "supervisor", "machine")
"""Those after which the attempt is over; after the others it may be, if the store fails for too long."""
RESUMED: tuple[Kind, ...] = ("supervisor", "machine")
"""Those that leave nobody who could start the ranks again."""
WEIGHTS: dict[Kind, int] = {
    "rank": 6, "notice": 3, "supervisor": 2, "machine": 2, "pause": 2, "store": 3, "outage": 1, "disk": 2,
}  # fmt: skip
ON_A_STORE: tuple[Kind, ...] = ("store", "outage")
ON_A_FOLDER: tuple[Kind, ...] = ("disk",)
ANSWERS = ("500", "503", "409", "reset", "drop_response")
METHODS = ("GET", "PUT", "POST", "DELETE", "HEAD")


@dataclass(frozen=True)
class Disturbance:
    """One of them.

    Attributes:
        number: from 1.
        rank: whom it hits, where it hits one.
        delay_s: seconds between the moment and the disturbance.
        lasts_s: how long it lasts, where it does.
        faults: method and answer of each request to the store that fails.
    """

    number: int
    kind: Kind
    moment: Moment
    rank: int
    delay_s: float
    lasts_s: float
    faults: tuple[tuple[str, str], ...] = ()


def disturbances(seed: int, count: int, *, ranks: int, without: tuple[Kind, ...]) -> list[Disturbance]:
    """All of a run.

    A start is hit only where the disturbance before it ended an attempt that had a checkpoint: the third attempt in a
    row without one would end the run, as it should.
    """
    draw = random.Random(seed)
    kinds = [kind for kind in WEIGHTS if kind not in without]
    found: list[Disturbance] = []
    for number in range(1, count + 1):
        kind = draw.choices(kinds, [WEIGHTS[kind] for kind in kinds])[0]
        moment = draw.choices(("training", "saving", "starting"), (5, 3, 2))[0]
        before = found[-1] if found else None
        if moment == "starting" and (before is None or before.kind not in ENDING or before.moment == "starting"):
            moment = "training"
        found.append(
            Disturbance(
                number,
                kind,
                moment,
                rank=draw.randrange(ranks),
                delay_s=draw.uniform(0, 8 if moment == "starting" else 1.5) * (moment != "saving"),
                lasts_s=draw.uniform(3, 12),
                faults=tuple(_fault(draw) for _ in range(draw.randint(1, 12))),
            )
        )
    return found


def _fault(draw: random.Random) -> tuple[str, str]:
    method, answer = draw.choice(METHODS), draw.choice(ANSWERS)
    # a conflict is the answer to a conditional write alone
    return (method, answer) if answer != "409" or method == "PUT" else (method, "503")
