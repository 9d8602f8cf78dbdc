"""`gmml compare`: what evaluations found of several runs, in one table. Imports no pydantic and no torch."""

import json
import sys
from typing import Any

import click

from gmml_cluster.cli import options

Row = dict[str, Any]


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
    """Of each score, feature and corpus the row of the latest step."""
    from gmml_cluster.run.evaluations import kept, table

    rows = sorted(table(kept(run)), key=lambda row: -1 if row["step"] is None else row["step"])
    return list({(row["score"], row["feature"], row["corpus_digest"] or row["corpus"]): row for row in rows}.values())


def _print(rows: list[Row]) -> None:
    """Runs down, kinds of scores across; accuracies of different corpora are never in one column."""
    from rich.console import Console
    from rich.table import Table

    kinds = list(dict.fromkeys(_kind(row) for row in rows))
    shown = Table("RUN", "STEP", *(" ".join(kind[:2]) for kind in kinds), box=None, pad_edge=False)
    for name in dict.fromkeys(row["run"] for row in rows):
        own = {_kind(row): row for row in rows if row["run"] == name}
        steps = sorted({"untrained" if row["step"] is None else str(row["step"]) for row in own.values()})
        cells = [f"{own[kind]['accuracy']:.1f} ± {own[kind]['error']:.1f}" if kind in own else "-" for kind in kinds]
        shown.add_row(name, ", ".join(steps), *cells)
    Console(width=None if sys.stdout.isatty() else 200).print(shown)
    for url in dict.fromkeys(row["corpus"] for row in rows):
        click.echo(f"scored on {url}; ± is one standard error of sampling, not the spread of seeds")


def _kind(row: Row) -> tuple[str, str, str]:
    return row["score"], row["feature"], row["corpus_digest"] or row["corpus"]
