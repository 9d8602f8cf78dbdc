"""Scores over the steps of runs, where `evaluate:` or repeated `gmml eval` scored several checkpoints.

Dims: P points of a run.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, Model, Range1d

from gmml_cluster.outputs.status import ScoreOutput
from gmml_cluster.report.gather import RunData
from gmml_cluster.report.palette import colour, dash
from gmml_cluster.report.plots import plot_of
from gmml_cluster.run.results.score_columns import Kind, headings, kind_of, protocol_of

MOST = 6
"""Figures of a page; a run that scores every feature by every protocol would have dozens."""
_HEIGHT = 250
_UNTRAINED = -1


@dataclass(frozen=True)
class ScoreCurve:
    """One kind of score over the steps.

    Attributes:
        name: of the figure.
        title: score and feature.
        protocol: corpus, bank and settings.
        rows: run -> its rows, by step, the untrained network first.
    """

    name: str
    title: str
    protocol: str
    rows: Mapping[str, Sequence[ScoreOutput]]


def score_curves(runs: Sequence[RunData]) -> list[ScoreCurve]:
    """The scores that some run has at two steps or more, the first `MOST` of them, in the order they were kept."""
    found: dict[Kind, dict[str, dict[int, ScoreOutput]]] = {}
    for run in runs:
        for row in run.rows if len(run.curves.last) else ():
            found.setdefault(kind_of(row), {}).setdefault(run.name, {})[_step(row)] = row
    chosen = [kind for kind, of_runs in found.items() if any(len(rows) > 1 for rows in of_runs.values())][:MOST]
    titles = headings(chosen)
    return [
        ScoreCurve(f"score_{number}", titles[kind], protocol_of(_some(found[kind])), _by_step(found[kind]))
        for number, kind in enumerate(chosen)
    ]


def _step(row: ScoreOutput) -> int:
    return _UNTRAINED if row["step"] is None else int(row["step"])


def _some(of_runs: Mapping[str, Mapping[int, ScoreOutput]]) -> ScoreOutput:
    return next(row for rows in of_runs.values() for row in rows.values())


def _by_step(of_runs: Mapping[str, Mapping[int, ScoreOutput]]) -> dict[str, list[ScoreOutput]]:
    return {name: [rows[step] for step in sorted(rows)] for name, rows in of_runs.items()}


def score_figures(runs: Sequence[RunData], x: Range1d, axis: str) -> Iterator[tuple[str, Model]]:
    """Each score's figure by its name: one line a run in a band of one standard error to both sides.

    Args:
        runs: in the order of the page.
        x: the axis that all figures share.
        axis: what stands below it.
    """
    for curve in score_curves(runs):
        yield curve.name, _figure(curve, runs, x, axis)


def _figure(curve: ScoreCurve, runs: Sequence[RunData], x: Range1d, axis: str) -> Model:
    every = [row for rows in curve.rows.values() for row in rows]
    low = min(row["accuracy"] - row["error"] for row in every)
    high = max(row["accuracy"] + row["error"] for row in every)
    plot = plot_of(curve.name, x_range=x, y_range=Range1d(low, high if low < high else low + 1), height=_HEIGHT)
    points = []
    for index, run in enumerate(runs):
        if run.name not in curve.rows:
            continue
        styled = {"source": _source(curve, run), "name": run.name}
        edges = f"{curve.name}_least", f"{curve.name}_greatest"
        band = plot.varea("last", *edges, fill_color=colour(index), fill_alpha=0.2, **styled)
        mean = f"{curve.name}_mean"
        line = plot.line("last", mean, color=colour(index), line_dash=dash(index), line_width=1.6, **styled)
        point = plot.scatter("last", mean, color=colour(index), size=6, **styled)
        for each in (band, line, point):
            each.tags = [f"run-{index}"]
        points.append(point)
    hover = [("run", "$name"), ("step", "@said"), ("percent", f"@{curve.name}_mean{{0.00}} ± @error{{0.00}}")]
    plot.add_tools(HoverTool(renderers=points, tooltips=hover))
    plot.xaxis.axis_label, plot.xaxis.name = axis, "x-axis"
    plot.xaxis.formatter.use_scientific = False
    return plot


def _source(curve: ScoreCurve, run: RunData) -> ColumnDataSource:
    """A run's points over the three axes; images and hours are those of the metric lines around a step."""
    rows, curves = curve.rows[run.name], run.curves
    steps_P = np.array([_step(row) for row in rows], float)
    trained_P = steps_P != _UNTRAINED
    accuracy_P, error_P = (np.array([row[name] for row in rows], float) for name in ("accuracy", "error"))
    data: dict[str, Any] = {
        "last": np.maximum(steps_P, 0),
        "samples": np.interp(steps_P, curves.last, curves.samples) * trained_P,
        "hours": np.interp(steps_P, curves.last, curves.hours) * trained_P,
        "said": ["untrained" if row["step"] is None else f"{row['step']:,}" for row in rows],
        "error": error_P,
        f"{curve.name}_least": accuracy_P - error_P,
        f"{curve.name}_mean": accuracy_P,
        f"{curve.name}_greatest": accuracy_P + error_P,
    }
    return ColumnDataSource(data)
