"""What of a run's evaluations is not a score: which is under way, which were given up and why, which runs train heads.

Each attempt that scores its own weights has one small file for it, written by its rank 0 alone. The log has the scores.
"""

import json
import logging
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from gmml_cluster.errors import StorageError
from gmml_cluster.outputs.status import GivenUpOutput, ScoreOutput, UnscoredOutput
from gmml_cluster.run.root import RunRoot
from gmml_cluster.store.protocol import NotFound

HEADS = ("attentive", "finetune", "segmentation")
"""Scores of `gmml eval` that train a run of their own."""
_NAME_CHARACTERS = 63
_GIVEN_UP_KEPT = 50
_log = logging.getLogger(__name__)


@dataclass
class EvaluationProgress:
    """Rank 0's: says in the run root what the attempt's evaluations do.

    A store that does not take the file is logged: it only informs, and no score depends on it.

    Attributes:
        run: the run.
        attempt: that scores its own weights.
    """

    run: RunRoot
    attempt: int
    _running: dict[str, Any] | None = field(default=None, init=False)
    _given_up: list[dict[str, Any]] = field(default_factory=list, init=False)

    def begin(self, step: int, images: int) -> None:
        """The weights behind this step are being scored, on so many images."""
        self._running = {"step": step, "since": time.time(), "images": images}
        self._write()

    def end(self) -> None:
        """Nothing is under way: it was kept, or a notice ended it and the next attempt makes it."""
        if self._running is not None:
            self._running = None
            self._write()

    def give_up(self, step: int, reason: str) -> None:
        """The evaluation of this step failed, and training goes on without its score."""
        self._running = None
        self._given_up = [*self._given_up, {"step": step, "time": time.time(), "reason": reason}][-_GIVEN_UP_KEPT:]
        self._write()

    def _write(self) -> None:
        document = {"running": self._running, "given_up": self._given_up}
        try:
            self.run.store.put(_name(self.attempt), json.dumps(document).encode())
        except StorageError as error:
            _log.warning("%s; gmml status does not know how evaluations are doing", error)


def _name(attempt: int) -> str:
    return f"attempts/{attempt:04d}/evaluations.json"


def progress_of(
    run: RunRoot, attempts: Iterable[int], living: int | None, scored: Sequence[ScoreOutput]
) -> UnscoredOutput:
    """What is `running` (None where nothing is), and what was `given_up`, by attempt and step.

    Args:
        run: the run.
        attempts: their numbers.
        living: the attempt that lives; what any other had begun is not running any more.
        scored: rows of `evaluations.table`: what a later attempt has scored after all was not given up.

    Raises:
        StorageError: the store does not answer.
    """
    made = {row["step"] for row in scored if row["attempt"] is not None}
    found: UnscoredOutput = {"running": None, "given_up": []}
    for attempt in attempts:
        with suppress(NotFound):
            document = json.loads(run.store.get(_name(attempt)))
            given_up = [each for each in document["given_up"] if each["step"] not in made]
            found["given_up"] += [_given_up(attempt, each) for each in given_up]
            running = document["running"]
            if attempt == living and running is not None:
                step, since, images = running["step"], running["since"], running["images"]
                found["running"] = {"attempt": attempt, "step": step, "since": since, "images": images}
    return found


def _given_up(attempt: int, found: Mapping[str, Any]) -> GivenUpOutput:
    return {"attempt": attempt, "step": found["step"], "time": found["time"], "reason": found["reason"]}


def head_name(name: str, method: str, digest: str) -> str:
    """Name of the run that trains one of `HEADS` for a request of that digest."""
    suffix = f"-{method}-{digest}"
    return name[: _NAME_CHARACTERS - len(suffix)] + suffix


def head_of(name: str, other: str) -> str | None:
    """Which of `HEADS` a run of this name trains for the run `other`; None where it trains none for it."""
    found = re.fullmatch(rf"(.*)-({'|'.join(HEADS)})-([0-9a-f]{{8}})", name)
    return found[2] if found is not None and head_name(other, found[2], found[3]) == name else None
