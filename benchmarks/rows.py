"""Rows of the table of `make bench`: a figure over that of a peer or a limit, measured in turn on the same machine."""

import json
import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True)
class Ratio:
    """What paired rounds gave: median, least and most of the rounds' ratios."""

    median: float
    least: float
    most: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.least:.2f} to {self.most:.2f})"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        figure: what was measured, with its setting.
        over: the peer or the limit that it is divided by.
        at_least: the goal where more is better; None where less is.
        at_most: the goal where less is better.
        unit: what the figure itself is measured in; empty where the ratio alone counts.
        value: the figure itself, median of the rounds.
        reason: why the goal was not reached, where that is known.
    """

    figure: str
    over: str
    ratio: Ratio
    at_least: float | None = None
    at_most: float | None = None
    unit: str = ""
    value: float | None = None
    reason: str = ""

    @property
    def reached(self) -> bool:
        """Whether the median reaches the goal."""
        enough = self.at_least is None or self.ratio.median >= self.at_least
        return enough and (self.at_most is None or self.ratio.median <= self.at_most)

    @property
    def goal(self) -> str:
        """The goal in words."""
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"


def interleaved(measures: Mapping[str, Callable[[], float]], rounds: int, seed: int = 1) -> dict[str, list[float]]:
    """What each measure gives, round by round, in an order drawn anew each round; a first round warms up.

    Whatever else the machine does falls on all alike, so that only ratios within a round mean something.
    """
    draw, found = random.Random(seed), {name: list[float]() for name in measures}
    for number in range(rounds + 1):
        for name in draw.sample(list(measures), len(measures)):
            value = measures[name]()
            if number:
                found[name].append(value)
    return found


def ratio_of(own: Sequence[float], other: Sequence[float]) -> Ratio:
    """The ratio of two measures, round by round."""
    ratios = [one / base for one, base in zip(own, other, strict=True)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a table, and below it why goals were not reached, as far as that is known."""
    lines = [
        "| figure | over | ratio: median (range) | goal | reached | figure itself |",
        "|---|---|---:|---|---|---:|",
    ]
    for row in rows:
        itself = "" if row.value is None else f"{_digits(row.value)} {row.unit}"
        reached = "yes" if row.reached else "no"
        lines.append(f"| {row.figure} | {row.over} | {row.ratio} | {row.goal} | {reached} | {itself} |")
    return "\n".join([*lines, *_missed(rows)])


def _missed(rows: Sequence[Row]) -> Iterator[str]:
    """Reasons, each with all the rows that it explains."""
    explained = [row for row in rows if row.reason and not row.reached]
    if explained:
        yield "\nNot reached:\n"
    for reason in dict.fromkeys(row.reason for row in explained):
        figures = "; ".join(f"{row.figure}, over {row.over}" for row in explained if row.reason == reason)
        yield f"- {figures}: {reason}."


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def write_json(rows: Sequence[Row], path: Path) -> None:
    """Write rows for `read_json`."""
    path.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def read_json(path: Path) -> list[Row]:
    """The rows that `write_json` wrote."""
    return [Row(**{**row, "ratio": Ratio(**row["ratio"])}) for row in json.loads(path.read_text())]
