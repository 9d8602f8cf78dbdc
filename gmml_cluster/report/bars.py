"""Figures of time: the timeline of each run, and where the time of its ranks went."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bokeh.models import ColumnDataSource, FactorRange, HoverTool, Model

from gmml_cluster.report.gather import RunData
from gmml_cluster.report.palette import KINDS
from gmml_cluster.report.plots import plot_of
from gmml_cluster.report.timeline import DrawnSpan, Save, merged, parts_of

_ROW, _AROUND = 30, 110
"""Pixels of a row, and of all around the rows."""
_SPANS, _SAVES = 300, 300
"""Drawn of a run at most."""
_HOUR_S = 3600.0
_ENDED, _SAVED = KINDS["replayed"], KINDS["checkpoint_stall"]

Columns = dict[str, list[Any]]


def timeline(runs: Sequence[RunData]) -> Model:
    """One row a run: what its ranks did, from its first submit on; below, the saves that went on beside."""
    plot = plot_of("timeline", **_rows(runs))
    unit, unit_s = unit_for(max((span.end - run.submitted for run in runs for span in run.spans), default=0.0))
    bars = _bars(plot, _spent(runs, unit_s), 0.62, color="colour")
    saves = _bars(plot, _saves(runs, unit_s), 0.12, color=_SAVED)
    ends = plot.scatter("at", "row", marker="inverted_triangle", size=9, source=ColumnDataSource(_ends(runs, unit_s)))
    ends.glyph.fill_color = ends.glyph.line_color = _ENDED
    by = [("attempt", "@attempt"), ("log entries", "@slots")]
    plot.add_tools(HoverTool(renderers=[bars, saves], tooltips=[("what", "@kind, @took"), *by]))
    plot.add_tools(HoverTool(renderers=[ends], tooltips=[("ended", "@cause"), *by]))
    plot.xaxis.axis_label = f"{unit} since the first submit"
    return plot


def goodput(runs: Sequence[RunData]) -> Model:
    """One row a run: the shares of all rank-seconds by kind."""
    plot = plot_of("goodput", x_range=(0, 100), **_rows(runs))
    found = _columns("share")
    for run in runs:
        at, rank_s = 0.0, run.status["goodput"]["rank_s"]
        for kind, share in shares_of(rank_s).items():
            _add(found, run.name, (at, at + share), kind, rank_s[kind])
            found["share"].append(share)
            at += share
    bars = _bars(plot, found, 0.62, color="colour")
    tooltips = [("what", "@kind"), ("share", "@share{0.0} %"), ("of all ranks", "@took")]
    plot.add_tools(HoverTool(renderers=[bars], tooltips=tooltips))
    plot.xaxis.axis_label = "percent of all rank-seconds"
    return plot


def shares_of(rank_s: Mapping[str, float]) -> dict[str, float]:
    """Kind -> percent of all rank-seconds, of those that took any, in the order of the legend."""
    total = sum(rank_s.values())
    return {kind: 100 * rank_s[kind] / total for kind in KINDS if rank_s.get(kind)} if total else {}


def unit_for(seconds: float) -> tuple[str, float]:
    """The unit of an axis that reaches so far, and its seconds: the smallest of which it has fewer than 120."""
    units = {"seconds": 1.0, "minutes": 60.0, "hours": _HOUR_S}
    return next(((name, length) for name, length in units.items() if seconds < 120 * length), ("days", 24 * _HOUR_S))


def duration(seconds: float) -> str:
    """A duration for people."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < _HOUR_S else f"{seconds / _HOUR_S:,.1f} h"


def _rows(runs: Sequence[RunData]) -> dict[str, Any]:
    names = [run.name for run in runs]
    return {"y_range": FactorRange(*reversed(names)), "height": _ROW * len(names) + _AROUND}


def _bars(plot: Any, columns: Columns, height: float, *, color: str) -> Any:
    plot.ygrid.visible = False
    source = ColumnDataSource(columns)
    return plot.hbar("row", left="left", right="right", height=height, fill_color=color, line_color=None, source=source)


def _columns(*more: str) -> Columns:
    return {name: [] for name in ("row", "left", "right", "kind", "colour", "took", *more)}


def _add(found: Columns, row: Any, ends: tuple[float, float], kind: str, seconds: float) -> None:
    added = {"row": row, "left": ends[0], "right": ends[1], "kind": kind.replace("_", " ")}
    for name, value in {**added, "colour": KINDS.get(kind, _SAVED), "took": duration(seconds)}.items():
        found[name].append(value)


def _spent(runs: Sequence[RunData], unit_s: float) -> Columns:
    found = _columns("attempt", "slots")
    for run in runs:
        for part in parts_of(merged(run.spans, _SPANS)):
            _add(found, run.name, _ends_of(run, part, unit_s), part.kind, part.end - part.start)
            found["attempt"].append(part.span.attempt)
            first, last = part.span.slots
            found["slots"].append(str(first) if first == last else f"{first} to {last}")
    return found


def _saves(runs: Sequence[RunData], unit_s: float) -> Columns:
    found = _columns("attempt", "slots")
    for run in runs:
        for save in longest(run.saves, _SAVES):
            # a pair is a row and a distance from its middle, in rows
            ends = _ends_of(run, save, unit_s)
            _add(found, (run.name, -0.4), ends, f"saving step {save.step}", save.end - save.start)
            found["attempt"].append(save.attempt)
            found["slots"].append(str(save.slot))
    return found


def _ends(runs: Sequence[RunData], unit_s: float) -> Columns:
    ends = [(run, entry) for run in runs for entry in run.entries if entry.kind == "end"]
    return {
        "row": [run.name for run, _ in ends],
        "at": [(entry.time - run.submitted) / unit_s for run, entry in ends],
        "cause": [str(entry.fields["cause"]) for _, entry in ends],
        "attempt": ["none, it never claimed" if entry.attempt is None else str(entry.attempt) for _, entry in ends],
        "slots": [str(entry.slot) for _, entry in ends],
    }


def longest(saves: Iterable[Save], most: int) -> list[Save]:
    """So many of the saves, those that took longest."""
    return sorted(saves, key=lambda save: save.start - save.end)[:most]


def _ends_of(run: RunData, part: DrawnSpan | Save, unit_s: float) -> tuple[float, float]:
    return (part.start - run.submitted) / unit_s, (part.end - run.submitted) / unit_s
