"""What has been measured once, kept beside this file in the repository: the table takes hours, on several machines.

A trial whose encoder is trained and scored by every score stands there under its name, and is not measured again. To
measure it anew, remove its entry.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.methods.results import Result, Scored
from benchmarks.methods.trials import IMAGES, Trial

MEASURED = Path(__file__).with_name("measured.json")


def known(trials: Iterable[Trial]) -> dict[Trial, Result]:
    """The trials that are measured, and their results; none of another budget than the whole table's."""
    entries = json.loads(MEASURED.read_text())
    return {
        trial: _result(trial, entries[trial.name])
        for trial in trials
        if trial.images == IMAGES and trial.name in entries
    }


def keep(result: Result) -> None:
    """Write a result into the file, if nothing of it is missing and its budget is the whole table's."""
    if result.missing or result.trial.images != IMAGES:
        return
    entries = json.loads(MEASURED.read_text())
    entry = {name: value for name, value in asdict(result).items() if name not in ("trial", "finished")}
    entries[result.trial.name] = entry
    aside = MEASURED.with_suffix(".new")
    aside.write_text(json.dumps(entries, indent=1, sort_keys=True) + "\n")
    os.replace(aside, MEASURED)


def _result(trial: Trial, entry: dict[str, Any]) -> Result:
    scores = {name: Scored(**score) for name, score in entry["scores"].items()}
    return Result(trial, finished=True, **{**entry, "scores": scores})
