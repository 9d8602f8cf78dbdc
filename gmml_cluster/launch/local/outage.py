"""Why a job waits whose log cannot be read or written, kept on this machine, where that can still be written.

The log is in the run root. When that is full or out of reach, no entry can say why the run does not continue, and
`gmml status` would show the run as running.
"""

import json
import logging
import os
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gmml_cluster.launch.local.lock import state_folder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outage:
    """What the supervisor knows of its store.

    Attributes:
        reason: the store's error.
        next_try: seconds since 1970; None where the supervisor gave up.
    """

    reason: str
    next_try: float | None


def record(run: str, submit: str, outage: Outage) -> None:
    """Keep the reason; where this machine's state folder is full too, the supervisor's log alone has it."""
    path = _path(run, submit)
    aside = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(json.dumps(asdict(outage)))
        os.replace(aside, path)
    except OSError as error:
        _log.warning("%s: the reason of the outage cannot be kept: %s", path, error.strerror)


def clear(run: str, submit: str) -> None:
    """Delete the reason: the store answers again."""
    with suppress(OSError):
        _path(run, submit).unlink(missing_ok=True)


def found(run: str, submit: str) -> Outage | None:
    """The outage that a job's supervisor is in, or gave up in."""
    try:
        return Outage(**json.loads(_path(run, submit).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def _path(run: str, submit: str) -> Path:
    return state_folder() / run / submit / "outage.json"
