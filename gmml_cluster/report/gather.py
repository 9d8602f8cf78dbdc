"""Everything that a page shows of one run, read from its root and nothing else."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gmml_cluster.errors import GmmlError
from gmml_cluster.outputs.status import ScoreOutput
from gmml_cluster.report.curves import Curves, curves_of
from gmml_cluster.report.health import Health, health_of
from gmml_cluster.report.timeline import Save, Span, saves_of, spans_of, under_way
from gmml_cluster.run.entries import Entry
from gmml_cluster.run.results import pictures
from gmml_cluster.run.results.comparison import spec_of
from gmml_cluster.run.results.evaluations import kept, table
from gmml_cluster.run.root import RunRoot
from gmml_cluster.run.uploads import metric_lines, metric_part_names

Document = Mapping[str, Any]
_AT_WORK = ("submitted", "queued", "starting", "running", "stopping")


@dataclass(frozen=True)
class RunData:
    """One run.

    Attributes:
        name: unique among the runs of a page.
        status: document of `gmml status RUN --json`, with `evaluations`.
        spec: dotted field -> value, as resolved at submission, with the changes of the latest submit.
        spec_fault: why there is no spec; empty where there is one.
        rows: scores, as `gmml compare` has them, of every step.
        documents: of `evaluations/`, by step.
        spans, saves: when its ranks did what.
        parts: names of the metric parts.
        pictures: documents of `pictures/`, by step.
    """

    name: str
    url: str
    status: Document
    entries: Sequence[Entry] = field(repr=False)
    spec: Mapping[str, Any]
    spec_fault: str
    curves: Curves = field(repr=False)
    spans: Sequence[Span] = field(repr=False)
    saves: Sequence[Save] = field(repr=False)
    rows: Sequence[ScoreOutput] = field(repr=False)
    documents: Sequence[Document] = field(repr=False)
    health: Health
    parts: Sequence[str] = field(repr=False)
    pictures: Sequence[Document] = field(repr=False)

    @property
    def submitted(self) -> float:
        """Time of the first submit, in seconds since 1970; 0 before it."""
        return next((entry.time for entry in self.entries if entry.kind == "submit"), 0.0)


def gather(run: RunRoot, status: Document, *, name: str, buckets: int) -> RunData:
    """Read a run. Its metric lines are let go before the next run is read: a long one has 10^5.

    Args:
        run: the run.
        status: its document of `gmml status`.
        name: what the page calls it.
        buckets: of its curves, at most.

    Raises:
        StorageError: the run cannot be read.
    """
    entries = list(run.log.read())
    history = run.log.refresh()
    spec, fault = _spec(run)
    documents = kept(run)
    return RunData(
        name=name,
        url=run.url,
        status=status,
        entries=entries,
        spec=flat(spec),
        spec_fault=fault,
        curves=curves_of(metric_lines(run.store, history), entries, buckets),
        spans=[*spans_of(entries), *(under_way(history, time.time()) if status["state"] in _AT_WORK else [])],
        saves=saves_of(entries),
        rows=table(documents),
        documents=documents,
        health=health_of(entries, spec.get("data", {}).get("corpora", []), run.store),
        parts=metric_part_names(run.store),
        pictures=pictures.kept(run),
    )


def _spec(run: RunRoot) -> tuple[Mapping[str, Any], str]:
    """The spec, or why it cannot be read: a run of another version has curves and a log all the same."""
    try:
        return spec_of(run, run.log.refresh()), ""
    except GmmlError as error:
        return {}, str(error)


def flat(tree: Any, path: str = "") -> dict[str, Any]:
    """A nested document as dotted field -> value; lists by their index, empty ones and empty mappings as they are."""
    branches = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else None
    if branches is None or not tree:
        return {path: tree} if path else {}
    found: dict[str, Any] = {}
    for key, value in branches:
        found |= flat(value, f"{path}.{key}" if path else str(key))
    return found


def unique_names(runs: Sequence[RunRoot]) -> list[str]:
    """What a page calls each run: its name, with its root where another has the same."""
    names = [run.name for run in runs]
    return [run.url if names.count(run.name) > 1 else run.name for run in runs]
