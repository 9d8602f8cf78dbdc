"""`gmml compare`: what evaluations found of several runs, in one table. Imports no pydantic and no torch."""

import json
import sys
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
    """One table of what `gmml eval` has kept of each RUN, of each the latest of a kind."""
    from gmml_cluster.launch.find import find

    rows = [{"run": found.name, **row} for found in (find(name, root) for name in runs) for row in latest(found)]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
    elif rows:
        _print(rows)
    else:
        click.echo("nothing is kept of these runs; gmml eval RUN scores one")


def latest(run: Any) -> list[Row]:
    """Of each kind of score the row of the latest step."""
    from gmml_cluster.run.evaluations import kept, table

    rows = sorted(table(kept(run)), key=lambda row: -1 if row["step"] is None else row["step"])
    return list({_kind(row): row for row in rows}.values())


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
