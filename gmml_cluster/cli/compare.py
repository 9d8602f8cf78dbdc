"""`gmml compare`: what evaluations found of several runs, in one table. Imports no pydantic and no torch."""

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

from gmml_cluster.cli import options

Row = dict[str, Any]
Kind = tuple[Any, ...]
"""Score and feature, then what makes two of them incomparable."""


@click.command("compare")
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@options.root
@options.as_json
def command(runs: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """One table of what `gmml eval` has kept of each RUN, of each the latest of a kind.

    A run without scores, or with none that another run has under the same protocol, is named below the table.
    """
    from gmml_cluster.launch.find import find

    compared = {found.url: found for found in (find(name, root) for name in runs)}.values()
    rows = [{"run": found.name, **row} for found in compared for row in latest(found)]
    missing = not_compared([found.name for found in compared], rows)
    if as_json:
        click.echo(json.dumps({"version": 1, "scores": rows, "not_compared": missing}, indent=2))
        return
    if rows:
        _print(rows)
    for each in missing:
        click.echo(f"{each['run']}: {each['reason']}")


def latest(run: Any) -> list[Row]:
    """Of each kind of score the row of the latest step."""
    from gmml_cluster.run.evaluations import kept, table

    rows = sorted(table(kept(run)), key=lambda row: -1 if row["step"] is None else row["step"])
    return list({_kind(row): row for row in rows}.values())


def not_compared(names: Sequence[str], rows: Sequence[Row]) -> list[dict[str, str]]:
    """The `run`s that no column compares with another, each with the `reason`."""
    runs_of: dict[Kind, set[str]] = {}
    for row in rows:
        runs_of.setdefault(_kind(row), set()).add(row["run"])
    scored, found = {row["run"] for row in rows}, []
    for name in names:
        columns = [kind for kind, of_kind in runs_of.items() if name in of_kind]
        if not columns:
            found.append({"run": name, "reason": f"no scores are kept; gmml eval {name} makes some"})
        elif len(scored) > 1 and all(len(runs_of[kind]) == 1 for kind in columns):
            reason = "no score of the same corpus, bank and settings as another run's; score them alike by gmml eval"
            found.append({"run": name, "reason": reason})
    return found


def _print(rows: list[Row]) -> None:
    """Runs down, kinds of scores across: accuracies that must not be compared are never in one column."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    headings = _headings(kinds)
    shown = Table("RUN", "STEP", *map(escape, headings.values()), box=None, pad_edge=False)
    for name in dict.fromkeys(row["run"] for row in rows):
        own = {_kind(row): row for row in rows if row["run"] == name}
        steps = sorted({"untrained" if row["step"] is None else str(row["step"]) for row in own.values()})
        cells = [f"{own[kind]['accuracy']:.1f} ± {own[kind]['error']:.1f}" if kind in own else "-" for kind in kinds]
        shown.add_row(name, ", ".join(steps), *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
    of_kind = {_kind(row): row for row in rows}
    for said in dict.fromkeys(_protocol(headings[kind], of_kind[kind]) for kind in kinds):
        click.echo(said)
    click.echo("± is one standard error of sampling, not the spread of seeds")


def _headings(kinds: list[Kind]) -> dict[Kind, str]:
    """Score and feature, with a number where another column has both: then protocol, bank or corpus differ."""
    names, headings = [" ".join(kind[:2]) for kind in kinds], {}
    for kind, name in zip(kinds, names, strict=True):
        alike = [other for other in kinds if other[:2] == kind[:2]]
        headings[kind] = f"{name} [{alike.index(kind) + 1}]" if len(alike) > 1 else name
    return headings


def _protocol(heading: str, row: Row) -> str:
    """What a column's scores were made with, named where another column has the same score."""
    settings = ", ".join(f"{name} {value:g}" for name, value in row["settings"].items())
    text = f"scored on {row['corpus']}, learnt from {row['bank']} ({settings})"
    return f"{heading}: {text}" if heading.endswith("]") else f"{row['score']}: {text}"


def _kind(row: Row) -> Kind:
    digests = row["corpus_digest"] or row["corpus"], row["bank_digest"] or row["bank"]
    return (row["score"], row["feature"], *digests, row["samples"], *sorted(row["settings"].items()))
