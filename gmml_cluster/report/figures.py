"""The figures of a page, as Bokeh's models in one document: they share the data of a run and the x axis.

Nothing here is JavaScript of a model (`CustomJS`): that would need `eval`, which the page's policy forbids. What the
controls do is in `page.js`, which finds models by their names.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool, Model, Range1d

from gmml_cluster.report.bars import goodput, timeline
from gmml_cluster.report.curves import METRICS, Curves
from gmml_cluster.report.gather import RunData
from gmml_cluster.report.palette import colour, dash
from gmml_cluster.report.plots import plot_of
from gmml_cluster.report.score_curves import score_figures

AXES = {"last": "step", "samples": "images drawn", "hours": "hours since the first submit"}
"""Column of a run's data -> what the x axis says."""
_HEIGHT = 250
_LARGEST_FLOAT32 = 1e38


def figures_of(runs: Sequence[RunData]) -> dict[str, Model]:
    """The figures by name; a metric that no run has has none."""
    sources = [_source(run.curves) for run in runs]
    x = Range1d(0, max((_last(run.curves) for run in runs), default=1) or 1, name="x")
    known = [name for name in METRICS if any(name in run.curves.bands for run in runs)]
    found: dict[str, Model] = {name: _curve(name, runs, sources, x) for name in known}
    found |= score_figures(runs, x, AXES["last"])
    if any(run.spans for run in runs):
        found["timeline"] = timeline(runs)
        found["goodput"] = goodput(runs)
    return found


def _last(curves: Curves) -> float:
    return float(curves.last[-1]) if len(curves.last) else 0.0


def _source(curves: Curves) -> ColumnDataSource:
    data: dict[str, Any] = {"first": _whole(curves.first), "last": _whole(curves.last)}
    data |= {"samples": curves.samples, "hours": curves.hours}
    for name, band in curves.bands.items():
        data |= {f"{name}_{part}": _short(getattr(band, part)) for part in ("least", "mean", "greatest")}
    return ColumnDataSource(data)


def _whole(values: Any) -> Any:
    return values.astype(np.int32)


def _short(values: Any) -> Any:
    """Half the bytes, where no value would become infinite by it."""
    return values.astype(np.float32) if np.nanmax(np.abs(values), initial=0.0) < _LARGEST_FLOAT32 else values


def _curve(name: str, runs: Sequence[RunData], sources: Sequence[ColumnDataSource], x: Range1d) -> Model:
    """One line a run, the mean of each bucket, in a band from the least to the greatest value."""
    plot = plot_of(name, x_range=x, y_range=Range1d(*_heights(name, runs)), height=_HEIGHT)
    lines = []
    for index, (run, source) in enumerate(zip(runs, sources, strict=True)):
        if name not in run.curves.bands:
            continue
        styled = {"source": source, "name": run.name}
        if run.curves.steps > len(run.curves.last):
            band = plot.varea(
                "last", f"{name}_least", f"{name}_greatest", fill_color=colour(index), fill_alpha=0.3, **styled
            )
            band.tags = [f"run-{index}"]
        line = plot.line("last", f"{name}_mean", color=colour(index), line_dash=dash(index), line_width=1.6, **styled)
        line.tags = [f"run-{index}"]
        lines.append(line)
    hover = [("run", "$name"), ("steps", "@first{0} to @last{0}")]
    hover += [(part, f"@{name}_{part}{{%.6g}}") for part in ("greatest", "mean", "least")]
    formats = {f"@{name}_{part}": "printf" for part in ("greatest", "mean", "least")}
    plot.add_tools(HoverTool(renderers=lines, tooltips=hover, formatters=formats, line_policy="nearest"))
    plot.xaxis.axis_label = AXES["last"]
    plot.xaxis.name = "x-axis"
    plot.xaxis.formatter.use_scientific = False
    return plot


def _heights(name: str, runs: Sequence[RunData]) -> tuple[float, float]:
    """Least and greatest value of all runs; `page.js` narrows it to what is seen."""
    known = [run.curves.extremes[name] for run in runs if name in run.curves.extremes]
    low, high = min(each.least[0] for each in known), max(each.greatest[0] for each in known)
    return (low, high) if low < high else (low - 1, high + 1)
