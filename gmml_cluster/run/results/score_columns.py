"""Scores of several runs side by side: what may be compared with what. Imports no pydantic and no torch."""

from collections.abc import Sequence
from typing import Any

from gmml_cluster.outputs.runs import NotComparedOutput, ScoreOfRunOutput
from gmml_cluster.outputs.status import ScoreOutput
from gmml_cluster.run.results.evaluations import kept, table
from gmml_cluster.run.root import RunRoot

Kind = tuple[Any, ...]
"""Score and feature, then what makes two of them incomparable."""


def kind_of(row: ScoreOutput) -> Kind:
    """What a score is; two scores are compared where these are equal."""
    digests = row["corpus_digest"] or row["corpus"], row["bank_digest"] or row["bank"]
    return (row["score"], row["feature"], *digests, row["samples"], *sorted(row["settings"].items()))


def latest(run: RunRoot) -> list[ScoreOutput]:
    """Of each kind of score the row of the latest step.

    Raises:
        StorageError: the store does not answer, or a document stays damaged.
    """
    return latest_of(table(kept(run)))


def latest_of(rows: Sequence[ScoreOutput]) -> list[ScoreOutput]:
    """Of each kind of score among a run's rows that of the latest step."""
    by_step = sorted(rows, key=lambda row: -1 if row["step"] is None else row["step"])
    return list({kind_of(row): row for row in by_step}.values())


def not_compared(names: Sequence[str], rows: Sequence[ScoreOfRunOutput]) -> list[NotComparedOutput]:
    """The `run`s that no column compares with another, each with the `reason`."""
    runs_of: dict[Kind, set[str]] = {}
    for row in rows:
        runs_of.setdefault(kind_of(row), set()).add(row["run"])
    scored = {row["run"] for row in rows}
    found: list[NotComparedOutput] = []
    for name in names:
        columns = [kind for kind, of_kind in runs_of.items() if name in of_kind]
        if not columns:
            found.append({"run": name, "reason": f"no scores are kept; gmml eval {name} makes some"})
        elif len(scored) > 1 and all(len(runs_of[kind]) == 1 for kind in columns):
            reason = "no score of the same corpus, bank and settings as another run's; score them alike by gmml eval"
            found.append({"run": name, "reason": reason})
    return found


def headings(kinds: Sequence[Kind]) -> dict[Kind, str]:
    """Score and feature, with a number where another column has both: then protocol, bank or corpus differ."""
    names, found = [" ".join(kind[:2]) for kind in kinds], {}
    for kind, name in zip(kinds, names, strict=True):
        alike = [other for other in kinds if other[:2] == kind[:2]]
        found[kind] = f"{name} [{alike.index(kind) + 1}]" if len(alike) > 1 else name
    return found


def protocol_of(row: ScoreOutput) -> str:
    """What a score was made with: the corpus, the bank and the settings."""
    settings = ", ".join(f"{name} {value:g}" for name, value in row["settings"].items())
    return f"scored on {row['corpus']}, learnt from {row['bank']} ({settings})"
