"""The page: one HTML file with everything in it. What comes from runs is text and is escaped; the scripts are ours.

The page's own policy (Content-Security-Policy) names the three scripts by digest and allows no request: whatever the
log, the spec or the messages of a run contain cannot become code, also where an escape were forgotten.
"""

import base64
import hashlib
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gmml_cluster import __version__
from gmml_cluster.report import tables
from gmml_cluster.report.curves import METRICS
from gmml_cluster.report.figures import AXES, figures_of
from gmml_cluster.report.gather import RunData
from gmml_cluster.report.palette import KINDS, colour, dash
from gmml_cluster.report.pictures import BYTES, pictures_of
from gmml_cluster.report.score_curves import ScoreCurve, score_curves
from gmml_cluster.report.seeds import seed_verdicts
from gmml_cluster.report.sources import Source, listed, slots
from gmml_cluster.report.tables import Table
from gmml_cluster.report.verdict import ReportVerdict, differing_fields, shown, verdict_of
from gmml_cluster.run.results.score_columns import latest_of
from gmml_cluster.wording import counted

BUCKETS = 10_000
"""Of all runs together: some 1.1 MB of the page."""
MOST_BUCKETS, FEWEST_BUCKETS = 2000, 100
_TITLED = 3


@dataclass(frozen=True)
class FigureView:
    """A figure as the template places it.

    Attributes:
        root: of Bokeh: `elementid` and `id`.
        text: what it shows, for who does not see it.
    """

    name: str
    title: str
    text: str
    root: Any
    table: Table
    sources: Sequence[Source]


@dataclass(frozen=True)
class Page:
    """A page that was made, and what is said of it on the terminal."""

    html: str
    verdict: ReportVerdict


def buckets_for(runs: int) -> int:
    """Buckets of a run's curves on a page of so many runs: the page stays as large."""
    return max(FEWEST_BUCKETS, min(MOST_BUCKETS, BUCKETS // max(1, runs)))


def page_of(runs: Sequence[RunData], command: str) -> Page:
    """The page of these runs.

    Args:
        runs: in the order of the page.
        command: that made it, to be shown.
    """
    specs = {run.name: run.spec for run in runs}
    differing = differing_fields(specs)
    scores = {run.name: latest_of(run.rows) for run in runs}
    by_seeds = seed_verdicts(specs, [{"run": name, **row} for name, rows in scores.items() for row in rows])
    verdict = verdict_of({run.name: run.status for run in runs}, scores, list(differing))
    verdict = replace(verdict, answers=[*(each.sentence for each in by_seeds), *verdict.answers])
    script, roots = _embedded(runs)
    scripts = [_script(text) for text in (_bokeh(), script, _text("page.js"))]
    context = {
        **_of_verdict(runs, verdict, differing),
        "score_curves": [_score_curve(curve, runs, roots[curve.name]) for curve in score_curves(runs)],
        **_of_curves(runs, roots),
        **_of_time(runs, roots),
        **_of_data(runs),
        **_of_pictures(runs),
        **_of_specs(runs),
    }
    html = (
        _environment()
        .get_template("page.html")
        .render(
            **context,
            command=command,
            made=tables.moment(time.time()),
            version=__version__,
            style=Markup(_text("page.css")),
            scripts=scripts,
            policy=_policy(scripts),
        )
    )
    return Page(html, verdict)


def _embedded(runs: Sequence[RunData]) -> tuple[str, dict[str, Any]]:
    models = figures_of(runs)
    if not models:
        return "", {}
    script, roots = components(models, wrap_script=False, wrap_plot_info=False)
    return script, dict(roots)


def _of_verdict(
    runs: Sequence[RunData], verdict: ReportVerdict, differing: Mapping[str, Sequence[Any]]
) -> dict[str, Any]:
    more = " and more" if len(runs) > _TITLED else ""
    return {
        "title": ", ".join(run.name for run in runs[:_TITLED]) + more,
        "verdict": verdict,
        "rankings": [tables.of_ranking(ranking) for ranking in verdict.rankings],
        "overview": tables.of_runs(runs),
        "differing": tables.of_fields(differing, runs) if len(runs) > 1 else None,
        "differing_count": len(differing),
        "scores": tables.of_scores(runs),
        "score_sources": [_scored(run) for run in runs if run.rows],
    }


def _of_curves(runs: Sequence[RunData], roots: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "curves": [_curve(name, runs, roots[name]) for name in METRICS if name in roots],
        "axes": AXES,
        "runs": [_legend(index, run) for index, run in enumerate(runs)],
        "resolution": _resolution(runs),
    }


def _of_time(runs: Sequence[RunData], roots: Mapping[str, Any]) -> dict[str, Any]:
    kinds = "claim", "begin", "end", "cause", "exclude"
    return {
        "bars": _bars(runs, roots) if "timeline" in roots else [],
        "kinds": [(kind.replace("_", " "), shade) for kind, shade in KINDS.items()],
        "attempts": tables.of_attempts(runs),
        "attempt_sources": [_source(run, f"gmml status {run.name} --json", *kinds) for run in runs],
    }


def _of_data(runs: Sequence[RunData]) -> dict[str, Any]:
    return {
        "corpora": tables.of_corpora(runs),
        "digests": tables.of_digests(runs),
        "bad": tables.of_bad_samples(runs),
        "bad_incomplete": [run.name for run in runs if not run.health.searched],
        "health_sources": [_source(run, f"gmml log {run.name} --json", "open", "pin", "commit") for run in runs],
    }


def _of_pictures(runs: Sequence[RunData]) -> dict[str, Any]:
    drawn = [run for run in runs if run.pictures]
    found = [pictures_of(run, BYTES // len(drawn)) for run in drawn]
    return {"pictures": [each for each in found if each is not None], "picture_sources": [_drawn(run) for run in drawn]}


def _of_specs(runs: Sequence[RunData]) -> dict[str, Any]:
    return {
        "specs": [tables.of_spec(run) for run in runs if run.spec],
        "spec_faults": [(run.name, run.spec_fault) for run in runs if run.spec_fault],
        "spec_sources": [
            Source(run.name, slots(run.entries, "open", "submit"), "spec.yaml", _prints_spec(run, runs)) for run in runs
        ],
    }


def _prints_spec(run: RunData, runs: Sequence[RunData]) -> str:
    """What prints where a spec differs from another of the page; of a single run what later submits changed."""
    others = [each.name for each in runs if each is not run]
    return f"gmml diff {run.name} {others[0]} --json" if others else f"gmml log {run.name} --json"


def _curve(name: str, runs: Sequence[RunData], root: Any) -> FigureView:
    title, what = METRICS[name]
    table = tables.of_metric(name, runs)
    said = "; ".join(f"{row[0]} from {row[1]} to {row[2]}, least {row[3]}, greatest {row[4]}" for row in table.rows)
    sources = [
        Source(run.name, "", listed(run.parts), f"gmml metrics {run.name} --json, field {name}")
        for run in runs
        if name in run.curves.bands
    ]
    return FigureView(name, title, f"{title}, {what}. {said}.", root, table, sources)


def _score_curve(curve: ScoreCurve, runs: Sequence[RunData], root: Any) -> FigureView:
    ends = {name: (rows[0], rows[-1]) for name, rows in curve.rows.items()}
    said = "; ".join(f"{name} from {shown(first)} to {shown(last)}" for name, (first, last) in ends.items())
    sources = [_scored(run) for run in runs if run.name in curve.rows]
    text = f"{curve.title} over the steps in percent, {curve.protocol}. {said}."
    return FigureView(curve.name, curve.title, text, root, tables.of_score_curve(curve), sources)


def _bars(runs: Sequence[RunData], roots: Mapping[str, Any]) -> list[FigureView]:
    goodput = tables.of_goodput(runs)
    kinds = "submit", "claim", "begin", "commit", "score", "map", "end"
    log = [_source(run, f"gmml log {run.name} --json", *kinds) for run in runs]
    account = [_source(run, f"gmml status {run.name} --json, goodput.rank_s", *kinds) for run in runs]
    when = "When the ranks of each run waited, started, trained and saved; attempts are in a table below"
    share = "Shares of all rank-seconds by kind, a bar a run"
    return [
        FigureView("timeline", "Timeline", f"{when}.", roots["timeline"], goodput, log),
        FigureView("goodput", "Goodput", f"{share}.", roots["goodput"], goodput, account),
    ]


def _source(run: RunData, command: str, *kinds: str) -> Source:
    return Source(run.name, slots(run.entries, *kinds), "", command)


def _scored(run: RunData) -> Source:
    names = [str(entry.fields["file"]) for entry in run.entries if entry.kind == "score"]
    return Source(run.name, slots(run.entries, "score"), listed(names), f"gmml compare {run.name} --json")


def _drawn(run: RunData) -> Source:
    names = [str(each["file"]) for each in run.pictures]
    corpus = shlex.quote(str(run.pictures[-1]["corpus"]["url"]))
    return Source(run.name, "", listed(names), f"gmml report {run.name} --images {corpus}")


def _legend(index: int, run: RunData) -> dict[str, Any]:
    return {"name": run.name, "url": run.url, "colour": colour(index), "dash": dash(index), "tag": f"run-{index}"}


def _resolution(runs: Sequence[RunData]) -> str:
    drawn = [(run.curves.steps, len(run.curves.last)) for run in runs if run.curves.steps]
    if not drawn:
        return "No metric line has been uploaded yet."
    steps, buckets = max(drawn)
    if steps == buckets:
        return "Every step is drawn."
    each = counted(-(-steps // buckets), "step")
    band = "their mean in a band from the least to the greatest, so that no spike is hidden"
    return f"A point of a curve stands for up to {each}: {band}."


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("gmml_cluster.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _bokeh() -> str:
    """Bokeh's own script, without those of widgets and tables."""
    return "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)


def _script(text: str) -> Markup:
    """A script that may stand between tags as it is.

    Raises:
        ValueError: it would end its own tag.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")  # as a browser reads it, or the digest is another
    if "</script" in text.lower() or "<!--" in text:
        raise ValueError("a script of the page contains the end of a script or the beginning of a comment")
    return Markup(text)


def _policy(scripts: Sequence[str]) -> str:
    digests = [base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    rest = "style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
    return f"default-src 'none'; script-src {allowed}; {rest}"


def _text(name: str) -> str:
    return (files("gmml_cluster.report") / name).read_text(encoding="utf-8")
