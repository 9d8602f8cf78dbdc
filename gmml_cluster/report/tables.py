"""The tables of a page: plain rows of text, which the template escapes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from math import sqrt
from typing import Any

from gmml_cluster.outputs.status import ScoreOutput
from gmml_cluster.report.bars import duration, shares_of
from gmml_cluster.report.curves import METRICS, Extremes
from gmml_cluster.report.gather import RunData
from gmml_cluster.report.palette import KINDS
from gmml_cluster.report.score_curves import ScoreCurve
from gmml_cluster.report.verdict import Ranking, shown
from gmml_cluster.run.ledger import change_in_words

_STRETCHES = 5


_SIDE_BY_SIDE = 4
"""Runs whose columns fit beside each other on a screen."""


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what it shows; read out before the table.
        head: titles of the columns; the first cell of a row is its title.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


def moment(seconds: float | None) -> str:
    """A time in UTC, the same on whatever machine the page is made or read."""
    return "-" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S")


def figure(value: float | None) -> str:
    """A measured value in six digits."""
    return "-" if value is None else f"{value:,.6g}"


def of_runs(runs: Sequence[RunData]) -> Table:
    """A line a run: where it lies, how far it is, and what it cost."""
    head = (
        "run",
        "state",
        "steps made",
        "images drawn",
        "last loss",
        "images/s",
        "training",
        "attempts",
        "folder or URL",
    )
    return Table("The runs", head, [_run(run) for run in runs])


def _run(run: RunData) -> list[str]:
    status, curves = run.status, run.curves
    total = f" of {status['steps']:,}" if status["steps"] else ""
    made = f"{status['step'] + 1:,}{total}" if status["step"] is not None else f"0{total}"
    share = status["goodput"]["training_share"]
    extremes = curves.extremes
    return [
        run.name,
        status["state"],
        made,
        f"{curves.samples[-1]:,.0f}" if len(curves.samples) else "-",
        figure(extremes["loss"].last[0]) if "loss" in extremes else "-",
        f"{extremes['samples_per_s'].last[0]:,.1f}" if "samples_per_s" in extremes else "-",
        "-" if share is None else f"{100 * share:.1f} %",
        str(len(status["attempts"]) + sum(status["older_attempts"].values())),
        run.url,
    ]


def of_metric(name: str, runs: Sequence[RunData]) -> Table:
    """What the curve shows, in numbers: extremes with their steps, and the mean of each fifth of the steps."""
    fifths = [f"mean of fifth {number}" for number in range(1, _STRETCHES + 1)]
    head = ("run", "first", "last", "least", "greatest", *fifths)
    rows = [_metric(name, run) for run in runs if name in run.curves.bands]
    return Table(f"{METRICS[name][0]} by run; behind each value its step", head, rows)


def _metric(name: str, run: RunData) -> list[str]:
    found: Extremes = run.curves.extremes[name]
    pairs = (found.first, found.last, found.least, found.greatest)
    mean_K = run.curves.bands[name].mean
    bounds = [len(mean_K) * part // _STRETCHES for part in range(_STRETCHES + 1)]
    stretches = [mean_K[start:end] for start, end in pairwise(bounds)]
    known = [values[values == values] for values in stretches]  # what is not a number is left out
    means = [figure(float(values.mean())) if len(values) else "-" for values in known]
    return [run.name, *(f"{figure(value)} (step {step:,})" for value, step in pairs), *means]


def of_attempts(runs: Sequence[RunData]) -> Table:
    """A line an attempt: why it ended, where it ran, which steps it made."""
    head = ("run", "attempt", "started (UTC)", "ended (UTC)", "cause", "steps", "ranks", "nodes", "why")
    rows = [[run.name, *_attempt(attempt)] for run in runs for attempt in run.status["attempts"]]
    return Table("Attempts", head, rows)


def _attempt(attempt: Any) -> list[str]:
    first, last = attempt["first_step"], attempt["last_step"]
    steps = "none" if first is None else f"{first:,} to {'now' if last is None else f'{last:,}'}"
    host = f"{attempt['nodes'] or '?'}, from {attempt['host']}" if attempt["host"] else "-"
    ended = attempt["cause"] or "at work"
    times = moment(attempt["started"]), moment(attempt["ended"])
    ranks = str(attempt["topology"].get("ranks", "-"))
    return [str(attempt["attempt"]), *times, ended, steps, ranks, host, attempt["reason"].partition("\n")[0]]


def of_goodput(runs: Sequence[RunData]) -> Table:
    """Shares of the rank-seconds by kind, a column a run."""
    shares = [shares_of(run.status["goodput"]["rank_s"]) for run in runs]
    kinds = [kind for kind in KINDS if any(kind in each for each in shares)]
    rows = [[kind.replace("_", " "), *(f"{each.get(kind, 0.0):.1f} %" for each in shares)] for kind in kinds]
    total = [duration(sum(run.status["goodput"]["rank_s"].values())) for run in runs]
    return Table("Where the time of all ranks went", ("kind", *(run.name for run in runs)), [*rows, ["all", *total]])


def of_ranking(ranking: Ranking) -> Table:
    """The runs by one score, with their distance from the best."""
    best = ranking.rows[0]
    rows = []
    for row in ranking.rows:
        error = sqrt(best["error"] ** 2 + row["error"] ** 2)
        behind = "-" if row is best else f"{best['accuracy'] - row['accuracy']:.1f} ± {error:.1f}"
        alike = len(ranking.like_best) > 1
        said = "behind" if row["run"] not in ranking.like_best else "cannot be told apart" if alike else "best"
        rows.append([row["run"], shown(row), behind, said, _step(row), f"{row['samples']:,}"])
    head = ("run", "score", "behind the first, points", "verdict", "step", "images scored")
    return Table(f"{ranking.title}: {ranking.protocol}", head, rows)


def of_score_curve(curve: ScoreCurve) -> Table:
    """What the curve of a score shows, a line a run and step."""
    rows = [[name, _step(row), shown(row)] for name, found in curve.rows.items() for row in found]
    return Table(f"{curve.title}, {curve.protocol}", ("run", "step", "percent"), rows)


def of_scores(runs: Sequence[RunData]) -> Table:
    """Every score that is kept, with what it was made with beside it."""
    head = ("run", "step", "score", "feature", "percent", "images", "scored on", "learnt from", "settings", "made by")
    return Table("All scores that are kept", head, [[run.name, *_score(row)] for run in runs for row in run.rows])


def _score(row: ScoreOutput) -> list[str]:
    settings = ", ".join(f"{name} {value:g}" for name, value in row["settings"].items())
    by = "gmml eval" if row["attempt"] is None else f"attempt {row['attempt']}"
    corpora = _digested(row["corpus"], row["corpus_digest"]), _digested(row["bank"], row["bank_digest"])
    return [_step(row), row["score"], row["feature"], shown(row), f"{row['samples']:,}", *corpora, settings, by]


def _digested(url: str, digest: str) -> str:
    return f"{url} ({digest[:12]})" if digest else url


def _step(row: ScoreOutput) -> str:
    return "untrained" if row["step"] is None else f"{row['step']:,}"


def of_corpora(runs: Sequence[RunData]) -> Table:
    """What each corpus gave to the batches, and how many of its samples could not be decoded."""
    head = ("run", "corpus", "share asked", "share achieved", "lanes", "bad samples")
    rows = [
        [
            run.name,
            corpus.url,
            f"{corpus.asked:.2%}",
            "-" if corpus.achieved is None else f"{corpus.achieved:.2%}",
            "-" if corpus.lanes is None else str(corpus.lanes),
            "not counted yet" if corpus.bad is None else f"{corpus.bad:,}",
        ]
        for run in runs
        for corpus in run.health.corpora
    ]
    return Table("Mixing of the corpora, and bad samples", head, rows)


def of_digests(runs: Sequence[RunData]) -> list[Table]:
    """What fixes the order of samples and the code, by digest, then the counts of what was odd.

    Of many runs first what all of them share, then the rest, a row a run.
    """
    columns = [_digests(run) for run in runs]
    if len(runs) <= _SIDE_BY_SIDE:
        rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
        return [Table("Digests and counts", ("what", *(run.name for run in runs)), rows)]
    shared = {name: text for name, text in columns[0].items() if all(column[name] == text for column in columns)}
    others = [name for name in columns[0] if name not in shared]
    found = [Table("Digests and counts that all runs share", ("what", "all runs"), list(shared.items()))]
    rows = [[run.name, *(column[name] for name in others)] for run, column in zip(runs, columns, strict=True)]
    found.append(Table("Digests and counts that differ", ("run", *others), rows))
    return [table for table, names in zip(found, (shared, others), strict=True) if names]


def _digests(run: RunData) -> dict[str, str]:
    health, curves = run.health, run.curves
    pin = health.pin or {}
    layout = ", ".join(f"{name} {value}" for name, value in pin.get("layout", {}).items())
    opened = run.entries[0].fields if run.entries else {}
    code = ", ".join(f"{each['code'][:12]} from step {each['first_step']:,} on" for each in run.status["code"])
    return {
        "corpora (SHA-256 of the pin)": health.corpora_digest or "not pinned yet",
        "order of samples": layout or "not pinned yet",
        "images decoded by": str(pin.get("decoder", "-")),
        "identity of the spec": str(opened.get("spec", "-")),
        "code": code or "no step yet",
        "devices and versions": _platforms(run),
        "samples without a checksum": "-" if health.unchecked is None else f"{health.unchecked:,}",
        "damaged JPEGs that decode": f"{curves.sums['damaged']:,}",
        "requests sent again": f"{curves.sums['retries']:,}",
        "updates left out (not finite)": _steps(curves.skipped),
        "steps with a loss or gradient not finite": _steps(curves.not_finite),
    }


def _platforms(run: RunData) -> str:
    changes = run.status["platform_changes"]
    return (
        "; ".join(f"from attempt {each['attempt']} on {change_in_words(each)}" for each in changes) or "the same in all"
    )


def _steps(steps: Sequence[int]) -> str:
    named = ", ".join(f"{step:,}" for step in steps[:8])
    return "none" if not steps else f"{named} and {len(steps) - 8:,} more" if len(steps) > 8 else named


def of_bad_samples(runs: Sequence[RunData]) -> Table:
    """Each bad sample that the ranks' logs name, with its place."""
    rows = [[run.name, place.where, place.why, place.file] for run in runs for place in run.health.places]
    return Table("Bad samples", ("run", "shard and member", "why", "named in"), rows)


def of_fields(fields: Mapping[str, Sequence[Any]], runs: Sequence[RunData]) -> Table:
    """Fields of specs, a column a run, or of many runs a row."""
    caption = "Fields of the spec that differ"
    rows = [[name, *map(_value, found)] for name, found in fields.items()]
    names = [run.name for run in runs]
    if len(runs) <= max(_SIDE_BY_SIDE, len(fields)):
        return Table(caption, ("field", *names), rows)
    return Table(caption, ("run", *fields), list(zip(names, *(row[1:] for row in rows), strict=True)))


def of_spec(run: RunData) -> Table:
    """The whole spec of a run."""
    rows = [[name, _value(value)] for name, value in run.spec.items()]
    return Table(f"Spec of {run.name}, every field", ("field", "value"), rows)


def _value(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
