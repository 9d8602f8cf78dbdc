"""What the disturbances cost: seconds and steps, by kind, from the log alone."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from benchmarks.soak.disturb import Done
from benchmarks.soak.judge import first_ends


@dataclass
class Cost:
    """Of all disturbances of a kind.

    Attributes:
        count: how many.
        lost_s: seconds lost to each.
        replayed: steps that were made again after each, where the log says how far the attempt had come.
    """

    count: int = 0
    lost_s: list[float] = field(default_factory=list)
    replayed: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Saved:
    """A commit: its step, and when the state that it holds was copied."""

    step: int
    at: float


def saves(entries: Sequence[Mapping[str, Any]]) -> list[Saved]:
    """All commits, in order."""
    return [Saved(e["step"], e["time"] - e["seconds"]) for e in entries if e["kind"] == "commit"]


def step_s(saved: Sequence[Saved], done: Sequence[Done]) -> float:
    """Seconds of a step undisturbed: the median over pairs of commits with no disturbance near them."""
    found = [
        (b.at - a.at) / (b.step - a.step)
        for a, b in pairwise(saved)
        if b.step > a.step and not any(a.at - 1 <= each.ended and each.began <= b.at + 1 for each in done)
    ]
    return statistics.median(found) if found else 0.0


def costs(entries: Sequence[Mapping[str, Any]], done: Sequence[Done]) -> dict[str, Cost]:
    """By kind.

    Seconds lost: from the last save copied before the disturbance to the first one copied after it, less those that
    the steps between them take undisturbed. Disturbances without a save between them share what they cost.
    """
    saved = saves(entries)
    normal_s = step_s(saved, done)
    windows: dict[tuple[int, int], list[Done]] = {}
    for each in done:
        before = max((i for i, save in enumerate(saved) if save.at < each.began), default=None)
        after = next((i for i, save in enumerate(saved) if save.at > each.ended), None)
        if before is not None and after is not None:
            windows.setdefault((before, after), []).append(each)
    found: dict[str, Cost] = {each.what.kind: Cost() for each in done}
    for (before, after), those in windows.items():
        a, b = saved[before], saved[after]
        lost = max(0.0, b.at - a.at - (b.step - a.step) * normal_s) / len(those)
        for each in those:
            found[each.what.kind].lost_s.append(lost)
    for each in done:
        found[each.what.kind].count += 1
    for kind, steps in _replayed(entries, done):
        found[kind].replayed.append(steps)
    return found


def _replayed(entries: Sequence[Mapping[str, Any]], done: Sequence[Done]) -> list[tuple[str, int]]:
    """Steps made again, of each attempt that a disturbance ended and whose `end` says how far it had come."""
    begins = {entry["attempt"]: entry["step"] for entry in entries if entry["kind"] == "begin"}
    found = []
    for number, end in first_ends(entries).items():
        following = min((attempt for attempt in begins if attempt > number), default=None)
        by = [each for each in done if each.attempt == number and each.began <= end["time"] + 1]
        if by and following is not None and end.get("step") is not None:
            found.append((by[-1].what.kind, max(0, end["step"] + 1 - begins[following])))
    return found
