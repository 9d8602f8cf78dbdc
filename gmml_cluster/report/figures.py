"""The figures of a page, as Bokeh's models in one document: they share the data of a run and the x axis.

Nothing here is JavaScript of a model (`CustomJS`): that would need `eval`, which the page's policy forbids. What the
controls do is in `page.js`, which finds models by their names.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, DataRange1d, FactorRange, HoverTool, Model, Range1d
from bokeh.plotting import figure

from gmml_cluster.report.curves import METRICS, Curves
from gmml_cluster.report.gather import RunData
from gmml_cluster.report.palette import KINDS, colour, dash
from gmml_cluster.report.timeline import merged, parts_of

AXES = {"last": "step", "samples": "images drawn", "hours": "hours since the first submit"}
"""Column of a run's data -> what the x axis says."""
_HEIGHT, _ROW, _BARS = 250, 30, 110
_SPANS, _SAVES = 300, 300
_LARGEST_FLOAT32 = 1e38


def figures_of(runs: Sequence[RunData]) -> dict[str, Model]:
    """The figures by name; a metric that no run has has none."""
    sources = [_source(run.curves) for run in runs]
    x = Range1d(0, max((_last(run.curves) for run in runs), default=1) or 1, name="x")
    known = [name for name in METRICS if any(name in run.curves.bands for run in runs)]
    found: dict[str, Model] = {name: _curve(name, runs, sources, x) for name in known}
    if any(run.spans for run in runs):
        found["timeline"] = _timeline(runs)
        found["goodput"] = _goodput(runs)
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
    plot = _plot(name, x_range=x, y_range=DataRange1d(only_visible=True), height=_HEIGHT, window_axis="x")
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


def _timeline(runs: Sequence[RunData]) -> Model:
    """One row a run: what its ranks did, from its first submit on; below, the saves that went on beside."""
    rows = [run.name for run in runs]
    plot = _plot("timeline", y_range=FactorRange(*reversed(rows)), height=_ROW * len(rows) + _BARS)
    parts = [(run, part) for run in runs for part in parts_of(merged(run.spans, _SPANS))]
    origins = {run.name: origin_of(run) for run in runs}
    data = _columns((run.name, origins[run.name], part) for run, part in parts)
    bars = plot.hbar("row", left="left", right="right", height=0.62, color="colour", source=ColumnDataSource(data))
    saves = [(run, save) for run in runs for save in longest_saves(run)]
    beside = {
        "row": [(run.name, -0.4) for run, _ in saves],
        "left": [(save.start - origins[run.name]) / 3600 for run, save in saves],
        "right": [(save.end - origins[run.name]) / 3600 for run, save in saves],
        "kind": [f"saving step {save.step}" for _, save in saves],
        "attempt": [save.attempt for _, save in saves],
        "slots": [str(save.slot) for _, save in saves],
        "took": [said_s(save.end - save.start) for _, save in saves],
    }
    saving = plot.hbar("row", left="left", right="right", height=0.12, source=ColumnDataSource(beside), color="#d9730d")
    ends = [(run, entry) for run in runs for entry in run.entries if entry.kind == "end"]
    ended = {
        "row": [run.name for run, _ in ends],
        "x": [(entry.time - origins[run.name]) / 3600 for run, entry in ends],
        "cause": [str(entry.fields["cause"]) for _, entry in ends],
        "attempt": ["none" if entry.attempt is None else str(entry.attempt) for _, entry in ends],
        "slots": [str(entry.slot) for _, entry in ends],
    }
    marks = plot.scatter("x", "row", marker="inverted_triangle", size=9, source=ColumnDataSource(ended), color="#d64545")
    marks.name = "ends"
    spent = [("what", "@kind, @took"), ("attempt", "@attempt"), ("log slots", "@slots")]
    plot.add_tools(HoverTool(renderers=[bars, saving], tooltips=spent))
    plot.add_tools(
        HoverTool(renderers=[marks], tooltips=[("ended", "@cause"), ("attempt", "@attempt"), ("log slot", "@slots")])
    )
    plot.xaxis.axis_label = AXES["hours"]
    plot.ygrid.visible = False
    return plot


def origin_of(run: RunData) -> float:
    """Time of the first submit, in seconds since 1970."""
    return next((entry.time for entry in run.entries if entry.kind == "submit"), 0.0)


def longest_saves(run: RunData) -> list[Any]:
    """The saves that are drawn: the longest, where there are many."""
    return sorted(sorted(run.saves, key=lambda save: save.start - save.end)[:_SAVES], key=lambda save: save.start)


def _columns(rows: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {name: [] for name in ("row", "left", "right", "kind", "colour", "attempt", "slots", "took")}
    for row, origin, part in rows:
        first, last = part.span.slots
        _add(found, row, (part.start - origin) / 3600, (part.end - origin) / 3600, part.kind)
        found["attempt"].append(part.span.attempt)
        found["slots"].append(str(first) if first == last else f"{first} to {last}")
        found["took"].append(said_s(part.end - part.start))
    return found


def _add(found: dict[str, list[Any]], row: str, left: float, right: float, kind: str) -> None:
    for name, value in (("row", row), ("left", left), ("right", right), ("colour", KINDS[kind])):
        found[name].append(value)
    found["kind"].append(kind.replace("_", " "))


def _goodput(runs: Sequence[RunData]) -> Model:
    """One row a run: the shares of all rank-seconds by kind."""
    rows = [run.name for run in runs]
    plot = _plot("goodput", y_range=FactorRange(*reversed(rows)), height=_ROW * len(rows) + _BARS, x_range=(0, 100))
    found: dict[str, list[Any]] = {name: [] for name in ("row", "left", "right", "kind", "colour", "took", "share")}
    for run in runs:
        at, rank_s = 0.0, run.status["goodput"]["rank_s"]
        for kind, share in shares_of(rank_s).items():
            _add(found, run.name, at, at + share, kind)
            found["took"].append(said_s(rank_s[kind]))
            found["share"].append(share)
            at += share
    bars = plot.hbar("row", left="left", right="right", height=0.62, color="colour", source=ColumnDataSource(found))
    plot.add_tools(HoverTool(renderers=[bars], tooltips=[("what", "@kind"), ("share", "@share{0.0} %"), ("all ranks", "@took")]))
    plot.xaxis.axis_label = "percent of all rank-seconds"
    plot.ygrid.visible = False
    return plot


def shares_of(rank_s: Mapping[str, float]) -> dict[str, float]:
    """Kind -> percent of all rank-seconds, of those that took any, in the order of the legend."""
    total = sum(rank_s.values())
    return {kind: 100 * rank_s[kind] / total for kind in KINDS if rank_s.get(kind)} if total else {}


def said_s(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:,.1f} h"


def _plot(name: str, **settings: Any) -> Any:
    plot = figure(
        name=name,
        sizing_mode="stretch_width",
        tools="xpan,xbox_zoom,xwheel_zoom,reset,save",
        active_scroll=None,
        active_drag="xbox_zoom",
        min_border_left=70,
        **settings,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    return plot
