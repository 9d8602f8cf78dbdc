"""The question that a page answers, and the answer: which run is better by which score, or that it cannot be said.

A score has the standard error of sampling of its images. Two scores are told apart where their difference is more than
chance would give in 5 % of the cases, shared among all comparisons with the best (Šidák). The runs are scored on the
same images, so their errors are not independent and the true error of a difference is rather smaller: a verdict that is
given is on the safe side. What seeds do is in no error of a single run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

from gmml_cluster.outputs.runs import ScoreOfRunOutput
from gmml_cluster.outputs.status import ScoreOutput
from gmml_cluster.run.results.score_columns import Kind, headings, kind_of, protocol_of
from gmml_cluster.wording import counted

CHANCE = 0.05
ABSENT = "-"
_NAMED = 4
_METHOD = "method.name"


@dataclass(frozen=True)
class Ranking:
    """The runs by one kind of score.

    Attributes:
        title: score and feature.
        protocol: what it was made with.
        rows: the best first.
        like_best: names of runs that cannot be told apart from the best, which is the first of them.
        threshold: standard errors that a difference must exceed.
        sentence: the answer.
    """

    title: str
    protocol: str
    rows: Sequence[ScoreOfRunOutput]
    like_best: Sequence[str]
    threshold: float
    sentence: str


@dataclass(frozen=True)
class ReportVerdict:
    """The question of a page, and what can be answered.

    Attributes:
        question: one sentence.
        answers: one sentence a score, or one that nothing can be said.
        rankings: of every kind of score that at least two runs have.
        caveats: what limits the answers.
    """

    question: str
    answers: Sequence[str]
    rankings: Sequence[Ranking]
    caveats: Sequence[str]


def threshold(comparisons: int) -> float:
    """Standard errors that one of so many differences exceeds by chance in 5 % of the cases."""
    each = 1 - (1 - CHANCE) ** (1 / max(1, comparisons))
    return NormalDist().inv_cdf(1 - each / 2)


def rankings_of(rows: Sequence[ScoreOfRunOutput]) -> list[Ranking]:
    """Of each kind of score that at least two runs have, who is best.

    Args:
        rows: with `run`; of each run one a kind.
    """
    by_kind: dict[Kind, list[ScoreOfRunOutput]] = {}
    for row in rows:
        by_kind.setdefault(kind_of(row), []).append(row)
    titles = headings(list(by_kind))
    return [_ranking(titles[kind], found) for kind, found in by_kind.items() if len(found) > 1]


def _ranking(title: str, rows: Sequence[ScoreOfRunOutput]) -> Ranking:
    ordered = sorted(rows, key=lambda row: -float(row["accuracy"]))
    best, limit = ordered[0], threshold(len(ordered) - 1)
    alike = [row["run"] for row in ordered if not _apart(best, row, limit)]
    return Ranking(title, protocol_of(best), ordered, alike, limit, _sentence(title, ordered, alike))


def _apart(best: ScoreOfRunOutput, row: ScoreOfRunOutput, limit: float) -> bool:
    difference, error = _difference(best, row)
    return difference > limit * error and difference > 0


def _difference(one: ScoreOfRunOutput, other: ScoreOfRunOutput) -> tuple[float, float]:
    """Points, and their standard error as if both scores were of other images."""
    return one["accuracy"] - other["accuracy"], sqrt(one["error"] ** 2 + other["error"] ** 2)


def _sentence(title: str, ordered: Sequence[ScoreOfRunOutput], alike: Sequence[str]) -> str:
    best, second = ordered[0], ordered[1]
    difference, error = _difference(best, second)
    points = f"{difference:.1f} ± {error:.1f} points"
    by = f"{shown(best)} against {shown(second)} of {second['run']}, a difference of {points}"
    if len(alike) == 1:
        others = "the other" if len(ordered) == 2 else f"all {len(ordered) - 1} others"
        return f"By {title} {best['run']} is better than {others}: {by}."
    if len(alike) == len(ordered):
        return f"By {title} it cannot be said which is better: {best['run']} has {by}."
    rest = len(ordered) - len(alike)
    return f"By {title} the best cannot be named among {_named(alike)}; {counted(rest, 'run')} behind them."


def shown(row: ScoreOutput) -> str:
    """A score with its error, in percent."""
    return f"{row['accuracy']:.1f} ± {row['error']:.1f} %"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def differing_fields(specs: Mapping[str, Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Dotted fields whose values are not equal in all runs, the name apart: field -> the value of each run.

    A field that the spec of a run does not have, as an option of another method, has the value `ABSENT`. First come the
    method and what differs between runs of one method: most of the rest follows from it.
    """
    fields = dict.fromkeys(field for spec in specs.values() for field in spec)
    values = {field: [spec.get(field, ABSENT) for spec in specs.values()] for field in fields if field != "name"}
    found = {field: each for field, each in values.items() if any(value != each[0] for value in each)}
    methods = values.get(_METHOD, [])

    def follows(field: str) -> bool:
        of_method: dict[Any, Any] = {}
        pairs = zip(methods, found[field], strict=True) if methods else ()
        return field != _METHOD and all(of_method.setdefault(method, value) == value for method, value in pairs)

    return {field: found[field] for field in sorted(found, key=follows)}


def verdict_of(
    states: Mapping[str, Mapping[str, Any]], scores: Mapping[str, Sequence[ScoreOutput]], differing: Sequence[str]
) -> ReportVerdict:
    """The question and its answer.

    Args:
        states: run -> its document of `gmml status`.
        scores: run -> its rows, of each kind that of the latest step.
        differing: fields of the specs that differ between the runs.
    """
    rows: list[ScoreOfRunOutput] = [{"run": name, **row} for name, found in scores.items() for row in found]
    rankings = rankings_of(rows)
    if len(states) == 1:
        name = next(iter(states))
        return ReportVerdict(
            f"What has {name} learnt, and what did it cost?", _alone(name, rows), [], _caveats(states, rows)
        )
    answers = [ranking.sentence for ranking in rankings]
    if not answers:
        answers = ["It cannot be said which run is better: no two have a score of the same kind and data."]
    return ReportVerdict(_question(states, differing), answers, rankings, _caveats(states, rows))


def _question(states: Mapping[str, Any], differing: Sequence[str]) -> str:
    runs = counted(len(states), "run")
    if not differing:
        return f"Which of {runs} is better? Their specs are equal in every field."
    return f"Which of {runs} is better? They differ in {_named(differing)}."


def _alone(name: str, rows: Sequence[ScoreOfRunOutput]) -> list[str]:
    """What can be said of one run: its scores, beside those of its own untrained network."""
    trained = [row for row in rows if row["step"] is not None]
    if not trained:
        return [f"It cannot be said what {name} has learnt: no scores are kept; gmml eval {name} makes some."]
    return [f"{row['score']} {row['feature']} at step {row['step']:,}: {shown(row)}." for row in trained]


def _caveats(states: Mapping[str, Mapping[str, Any]], rows: Sequence[ScoreOfRunOutput]) -> list[str]:
    found = []
    unfinished = [f"{name} ({state['state']})" for name, state in states.items() if state["state"] != "finished"]
    if unfinished:
        found.append(f"Not finished: {', '.join(unfinished)}.")
    unscored = [name for name in states if all(row["run"] != name for row in rows)]
    if unscored and rows:
        found.append(f"Without any score: {_named(unscored)}.")
    if len({row["step"] for row in rows}) > 1 and len(states) > 1:
        found.append("The scores are of different steps; the table of scores names each.")
    if rows:
        found.append("± is one standard error of sampling the scored images; the spread of seeds is not in it.")
    return found
