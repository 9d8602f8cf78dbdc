"""Settings that were trained with several seeds: what their scores say together.

Welch's t test between the best setting and each other one, with the degrees of freedom of the smaller number of seeds:
fewer than Welch's own, so the chance is rather overstated. Student's distribution is that of Abramowitz and Stegun
(Handbook of Mathematical Functions, 26.7.3 and 26.7.4), exact for whole degrees of freedom.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import atan, cos, pi, sin, sqrt
from statistics import mean, variance
from typing import Any

from gmml_cluster.outputs.runs import ScoreOfRunOutput
from gmml_cluster.report.verdict import CHANCE
from gmml_cluster.run.results.score_columns import Kind, headings, kind_of
from gmml_cluster.wording import counted

SEED = "seed"
_FREE = ("name", SEED)


@dataclass(frozen=True)
class SettingScores:
    """The scores of one setting, of one kind and step.

    Attributes:
        runs: that have the setting, alike in all fields but name and seed.
    """

    runs: Sequence[str]
    scores: Sequence[float]

    @property
    def mean(self) -> float:
        """Of the seeds, in percent."""
        return mean(self.scores)


@dataclass(frozen=True)
class SeedVerdict:
    """Settings by one kind of score.

    Attributes:
        title: score and feature.
        settings: the best first, each with at least two seeds.
        chances: of each setting but the best, of a difference from it as large as was found.
        sentence: the answer.
    """

    title: str
    settings: Sequence[SettingScores]
    chances: Sequence[float]
    sentence: str


def settings_of(specs: Mapping[str, Mapping[str, Any]]) -> list[list[str]]:
    """The runs that differ in nothing but name and seed, together; settings with one seed alone are left out.

    Args:
        specs: run -> dotted field -> value; a run without fields belongs to none.
    """
    alike: dict[str, dict[Any, str]] = {}
    for run, spec in specs.items():
        if spec:
            rest = {field: value for field, value in spec.items() if field not in _FREE}
            # a seed that was run twice is one seed: the same numbers again say nothing new
            alike.setdefault(json.dumps(rest, sort_keys=True, default=str), {})[spec.get(SEED)] = run
    return [list(runs.values()) for runs in alike.values() if len(runs) > 1]


def seed_verdicts(specs: Mapping[str, Mapping[str, Any]], rows: Sequence[ScoreOfRunOutput]) -> list[SeedVerdict]:
    """Of each kind of score that at least two settings have for two seeds, which setting is better.

    Args:
        specs: of the runs.
        rows: scores with `run`, of each run one a kind.
    """
    settings = settings_of(specs)
    by_kind: dict[Kind, dict[str, float]] = {}
    for row in rows:
        by_kind.setdefault(kind_of(row), {})[row["run"]] = row["accuracy"]
    titles, found = headings(list(by_kind)), []
    for kind, scores in by_kind.items():
        scored = [[run for run in runs if run in scores] for runs in settings]
        known = [SettingScores(runs, [scores[run] for run in runs]) for runs in scored if len(runs) > 1]
        if len(known) > 1:
            found.append(_verdict(titles[kind], sorted(known, key=lambda each: -each.mean)))
    return found


def chance(one: Sequence[float], other: Sequence[float]) -> float:
    """How often two settings that are alike differ as much in their means, by the spread of their seeds.

    Args:
        one, other: scores of at least two seeds each; 1 where the seeds of neither differ, as nothing is known then.
    """
    error = sqrt(variance(one) / len(one) + variance(other) / len(other))
    return 1 - within(abs(mean(one) - mean(other)) / error, min(len(one), len(other)) - 1) if error else 1.0


def within(t: float, freedom: int) -> float:
    """Probability that a value of Student's distribution lies between -t and t."""
    angle = atan(t / sqrt(freedom))
    odd, term, total = freedom % 2, cos(angle) if freedom % 2 else 1.0, 0.0
    for power in range(odd, freedom - 1, 2):
        total += term
        term *= (power + 1) / (power + 2) * cos(angle) ** 2
    return 2 / pi * (angle + sin(angle) * total) if odd else sin(angle) * total


def _verdict(title: str, settings: Sequence[SettingScores]) -> SeedVerdict:
    best, rest = settings[0], settings[1:]
    chances = [chance(best.scores, each.scores) for each in rest]
    limit = 1 - (1 - CHANCE) ** (1 / len(rest))
    said = f"{shown(best)}, {shown(settings[1])}"
    if all(each <= limit for each in chances):
        answer = f"the setting of {best.runs[0]} is better than {counted(len(rest), 'other')}"
    else:
        answer = "it cannot be said which setting is better"
    return SeedVerdict(title, settings, chances, f"By {title} over seeds {answer}: {said}; {_reason(chances[0])}.")


def _reason(chance: float) -> str:
    return f"by the spread of the seeds so large a difference comes by chance in {100 * chance:.2g} % of the cases"


def shown(setting: SettingScores) -> str:
    """Mean and range of a setting's seeds."""
    least, greatest = min(setting.scores), max(setting.scores)
    seeds = counted(len(setting.scores), "seed")
    return f"{setting.runs[0]} {setting.mean:.1f} % (mean of {seeds}, {least:.1f} to {greatest:.1f})"
